"""Read declarations and statements. The grammar is in docs/plan-language.md.

After an error the rest of the line is skipped, so that one mistake does not hide the others.
"""

from __future__ import annotations

from collections.abc import Callable

from dish.plan import syntax
from dish.plan.expressions import ExpressionParser, Unexpected
from dish.plan.problems import Place, Report
from dish.plan.syntax import Block, Statement
from dish.plan.tokens import Kind, tokenize


def parse(text: str, report: Report) -> syntax.Program:
    """Return the program in a text; what is wrong with it goes to the report."""
    return _Parser(tokenize(text, report), report).program()


class _Parser(ExpressionParser):
    def program(self) -> syntax.Program:
        nodes: list[syntax.NodeDeclaration] = []
        aliases: list[syntax.Alias] = []
        constants: list[syntax.Constant] = []
        functions: list[syntax.Function] = []
        body: list[Statement] = []
        self._slots: tuple[int, int] | None = None
        self._registers: tuple[syntax.Span, ...] | None = None
        rows: dict[str, Callable[[Place], None]] = {
            "node": lambda place: nodes.append(self._node(place)),
            "param": lambda place: aliases.append(self._alias(place)),
            "const": lambda place: constants.append(self._constant(place)),
            "func": lambda place: functions.append(self._function(place)),
            "slots": self._slot_range,
            "registers": self._register_spans,
        }
        while self.token.kind is not Kind.END:
            if self.take_newline():
                continue
            word, place = self.token.text, self.token.place
            declare = rows.get(word) if self.token.kind is Kind.NAME else None
            try:
                if declare is not None:
                    self.advance()
                    declare(place)
                else:
                    body.append(self._statement())
                self.end_of_line()
            except Unexpected as error:
                self.recover(error)
        return syntax.Program(
            nodes=tuple(nodes), aliases=tuple(aliases), constants=tuple(constants),
            functions=tuple(functions), slots=self._slots, registers=self._registers,
            body=tuple(body),
        )  # fmt: skip

    # -- declarations

    def _node(self, place: Place) -> syntax.NodeDeclaration:
        name = self.name("a name for the node")
        self.expect("=")
        number = self.whole("the number of the node")
        fields: list[syntax.FieldDeclaration] = []
        if self.take("{"):
            while not self.take("}"):
                if self.take_newline() or self.take(","):
                    continue
                fields.append(self._field())
        return syntax.NodeDeclaration(place=place, name=name, number=number, fields=tuple(fields))

    def _field(self) -> syntax.FieldDeclaration:
        place = self.token.place
        name = self.name("a parameter of the node")
        self.expect(":")
        kind = self.name("a type")
        size = 1
        if self.take("["):
            size = self.whole("the number of elements")
            self.expect("]")
        flag = self.token.text if self.token.text in ("readonly", "registers") else ""
        if flag:
            self.advance()
        return syntax.FieldDeclaration(place=place, name=name, type=kind, size=size, flag=flag)

    def _alias(self, place: Place) -> syntax.Alias:
        name = self.name("a name for the parameter")
        self.expect("=")
        return syntax.Alias(place=place, name=name, target=self.reference())

    def _constant(self, place: Place) -> syntax.Constant:
        name = self.name("a name for the constant")
        self.expect("=")
        return syntax.Constant(place=place, name=name, value=self.expression())

    def _slot_range(self, place: Place) -> None:
        low = self.whole("the first slot")
        self.expect("..")
        self._slots = (low, self.whole("the last slot"))

    def _register_spans(self, place: Place) -> None:
        spans = [self._span()]
        while self.take(","):
            spans.append(self._span())
        self._registers = (*(self._registers or ()), *spans)

    def _span(self) -> syntax.Span:
        place = self.token.place
        name = self.name("a register array, such as p_uint8")
        low = high = None
        if self.take("["):
            low = high = self.whole("an element")
            if self.take(".."):
                high = self.whole("the last element")
            self.expect("]")
        return syntax.Span(place=place, name=name, low=low, high=high)

    def _function(self, place: Place) -> syntax.Function:
        name = self.name("a name for the function")
        self.expect("(")
        arguments: list[syntax.Argument] = []
        while not self.take(")"):
            if arguments:
                self.expect(",")
            at = self.token.place
            argument = self.name("an argument")
            self.expect(":")
            kind = self.name("a type")
            arguments.append(syntax.Argument(place=at, name=argument, type=kind))
        result = self.name("the type of the result") if self.take("->") else ""
        body = self._block()
        return syntax.Function(
            place=place, name=name, arguments=tuple(arguments), result=result, body=body
        )

    # -- statements

    def _block(self) -> Block:
        opening = self.token.place
        self.expect("{")
        self.deeper(opening)
        body: list[Statement] = []
        while not self.take("}"):
            if self.take_newline():
                continue
            if self.token.kind is Kind.END:
                raise Unexpected(opening, "this { is never closed: add a }")
            try:
                body.append(self._statement())
                if self.token.text != "}":
                    self.end_of_line()
            except Unexpected as error:
                nesting = self._nesting
                self.recover(error)
                self._nesting = nesting
        self._nesting -= 1
        return tuple(body)

    def _statement(self) -> Statement:
        rows: dict[str, Callable[[Place], Statement]] = {
            "var": self._declaration,
            "if": self._if,
            "while": self._while,
            "repeat": self._repeat,
            "wait": self._wait,
            "try": self._try,
            "return": self._return,
        }
        word, place = self.token.text, self.token.place
        if self.token.kind is Kind.NAME and word in rows:
            self.advance()
            return rows[word](place)
        if self.token.kind is Kind.NAME and word in ("break", "continue", "stop", "fail"):
            self.advance()
            reason = self.text() if word == "fail" else ""
            return syntax.Leave(place=place, word=word, reason=reason)
        if self.token.kind is Kind.NAME and self.following.text == "(":
            call = self.primary()
            if isinstance(call, syntax.Apply):
                return syntax.Perform(place=place, call=call)
        if self.token.kind is not Kind.NAME:
            raise self.unexpected("a statement")
        target = self.reference()
        self.expect("=")
        return syntax.Assignment(place=place, target=target, value=self.expression())

    def _declaration(self, place: Place) -> Statement:
        name = self.name("a name for the variable")
        kind = self.name("a type") if self.take(":") else ""
        self.expect("=")
        return syntax.Declaration(place=place, name=name, type=kind, value=self.expression())

    def _if(self, place: Place) -> Statement:
        condition = self.expression()
        then = self._block()
        other: Block = ()
        if self.take_word("else"):
            at = self.token.place
            self.deeper(at)
            other = (self._if(at),) if self.take_word("if") else self._block()
            self._nesting -= 1
        return syntax.Conditional(place=place, condition=condition, then=then, other=other)

    def _while(self, place: Place) -> Statement:
        condition = self.expression()
        return syntax.While(place=place, condition=condition, body=self._block())

    def _repeat(self, place: Place) -> Statement:
        count = self.expression()
        return syntax.Repeat(place=place, count=count, body=self._block())

    def _wait(self, place: Place) -> Statement:
        if self.take_word("for"):
            return syntax.WaitFor(place=place, duration=self.expression())
        if not self.take_word("until"):
            raise self.unexpected("`until` or `for`")
        condition = self.expression()
        limit = period = other = None
        forever = self.take_word("forever")
        if not forever and self.take_word("within"):
            limit = self.expression()
        if self.take_word("every"):
            period = self.expression()
        if self.take_word("else"):
            other = self._block()
        return syntax.WaitUntil(
            place=place, condition=condition, limit=limit, forever=forever, period=period,
            other=other,
        )  # fmt: skip

    def _try(self, place: Place) -> Statement:
        body = self._block()
        if not (self.take_word("on") and self.take_word("failure")):
            raise self.unexpected("`on failure { ... }`")
        return syntax.TryBlock(place=place, body=body, handler=self._block())

    def _return(self, place: Place) -> Statement:
        ends = self.token.kind is Kind.NEWLINE or self.token.text == "}"
        return syntax.ReturnValue(place=place, value=None if ends else self.expression())
