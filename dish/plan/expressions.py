"""Read expressions, and the small words of the grammar that everything is made of."""

from __future__ import annotations

from dish.plan import syntax
from dish.plan.problems import Place, Report
from dish.plan.syntax import Expression
from dish.plan.tokens import Kind, Token

UNITS: dict[str, int] = {"s": 1, "min": 60, "h": 3600, "d": 86_400}
KEYWORDS = frozenset(
    (
        "and", "break", "const", "continue", "else", "every", "fail", "failure", "false", "for",
        "forever", "func", "if", "node", "not", "on", "or", "param", "registers", "repeat",
        "return", "slots", "stop", "true", "try", "until", "var", "wait", "while", "within",
    )
)  # fmt: skip
# From loosest to tightest.
_LEVELS: tuple[tuple[str, ...], ...] = (
    ("or",),
    ("and",),
    ("not",),
    ("==", "!=", "<", ">", "<=", ">="),
    ("|",),
    ("^",),
    ("&",),
    ("<<", ">>"),
    ("+", "-"),
    ("*", "/", "%"),
)
COMPARISONS = frozenset(_LEVELS[3])
# Deeper than any person writes; keeps the parser from running out of its own stack.
_MAX_NESTING = 40


class Unexpected(Exception):
    """The text does not go on as it must."""

    def __init__(self, place: Place, text: str) -> None:
        super().__init__(text)
        self.place = place
        self.text = text


class ExpressionParser:
    """A cursor over tokens that can read expressions."""

    def __init__(self, tokens: list[Token], report: Report) -> None:
        self._tokens = tokens
        self._at = 0
        self._nesting = 0
        self._report = report

    # -- tokens

    @property
    def token(self) -> Token:
        """The token to read next."""
        return self._tokens[self._at]

    @property
    def following(self) -> Token:
        """The one after it."""
        return self._tokens[min(self._at + 1, len(self._tokens) - 1)]

    def advance(self) -> Token:
        """Take the next token; the last one stays."""
        token = self.token
        self._at = min(self._at + 1, len(self._tokens) - 1)
        return token

    def take(self, sign: str) -> bool:
        """Take a sign if it is next."""
        found = self.token.kind is Kind.SIGN and self.token.text == sign
        if found:
            self.advance()
        return found

    def take_word(self, word: str) -> bool:
        """Take a keyword if it is next."""
        found = self.token.kind is Kind.NAME and self.token.text == word
        if found:
            self.advance()
        return found

    def take_newline(self) -> bool:
        """Take the end of a line if it is next."""
        found = self.token.kind is Kind.NEWLINE
        if found:
            self.advance()
        return found

    def expect(self, sign: str) -> None:
        """Take a sign. Raises Unexpected."""
        if not self.take(sign):
            raise self.unexpected(f"`{sign}`")

    def name(self, what: str) -> str:
        """Take a name. Raises Unexpected."""
        if self.token.kind is not Kind.NAME:
            raise self.unexpected(what)
        if self.token.text in KEYWORDS:
            text = f"`{self.token.text}` is a word of the language: choose another name"
            raise Unexpected(self.token.place, text)
        return self.advance().text

    def whole(self, what: str) -> int:
        """Take a whole number. Raises Unexpected."""
        if self.token.kind is not Kind.NUMBER or not isinstance(self.token.number, int):
            raise self.unexpected(f"{what} as a whole number")
        return int(self.advance().number)

    def text(self) -> str:
        """Take a quoted text if it is next."""
        return self.advance().text if self.token.kind is Kind.TEXT else ""

    def unexpected(self, wanted: str) -> Unexpected:
        """Return the error for something else being next."""
        found = "the end of the line" if self.token.kind is Kind.NEWLINE else self.token.text
        return Unexpected(self.token.place, f"expected {wanted}, found {found}")

    def end_of_line(self) -> None:
        """Take the end of a statement. Raises Unexpected."""
        if not self.take_newline() and self.token.kind is not Kind.END:
            raise self.unexpected("the end of the line")

    def recover(self, error: Unexpected) -> None:
        """Note an error and go on behind the line."""
        self._report.add(error.place, error.text)
        self._nesting = 0
        while self.token.kind is not Kind.END and not self.take_newline():
            self.advance()

    def deeper(self, place: Place) -> None:
        """Count one more level of nesting. Raises Unexpected beyond what a person writes."""
        self._nesting += 1
        if self._nesting > _MAX_NESTING:
            raise Unexpected(place, "nested too deeply: use a variable or a function for a part")

    # -- expressions

    def expression(self) -> Expression:
        """Read an expression. Raises Unexpected."""
        self.deeper(self.token.place)
        result = self._level(0)
        self._nesting -= 1
        return result

    def _level(self, level: int) -> Expression:
        if level == len(_LEVELS):
            return self._prefix()
        operators = _LEVELS[level]
        if operators == ("not",):
            place = self.token.place
            if self.take_word("not"):
                self.deeper(place)
                operand = self._level(level)
                self._nesting -= 1
                return syntax.Prefix(place=place, operator="not", operand=operand)
            return self._level(level + 1)
        left = self._level(level + 1)
        began = self._nesting
        while self.token.text in operators and self.token.kind in (Kind.SIGN, Kind.NAME):
            operator = self.advance()
            self.deeper(operator.place)
            right = self._level(level + 1)
            left = syntax.Infix(
                place=operator.place, operator=operator.text, left=left, right=right
            )
        self._nesting = began
        return left

    def _prefix(self) -> Expression:
        place, sign = self.token.place, self.token.text
        if self.token.kind is Kind.SIGN and sign in ("-", "~"):
            self.advance()
            self.deeper(place)
            operand = self._prefix()
            self._nesting -= 1
            return syntax.Prefix(place=place, operator=sign, operand=operand)
        return self.primary()

    def primary(self) -> Expression:
        """Read a number, text, name, call or bracket. Raises Unexpected."""
        token = self.token
        if token.kind is Kind.NUMBER:
            self.advance()
            unit = UNITS.get(self.token.text) if self.token.kind is Kind.NAME else None
            if unit is not None:
                self.advance()
            return syntax.Number(place=token.place, value=token.number * (unit or 1))
        if token.kind is Kind.TEXT:
            self.advance()
            return syntax.Text(place=token.place, value=token.text)
        if self.take("("):
            inner = self.expression()
            self.expect(")")
            return inner
        if token.kind is Kind.NAME and token.text in ("true", "false"):
            self.advance()
            return syntax.Truth(place=token.place, value=token.text == "true")
        if token.kind is Kind.NAME and self.following.text == "(":
            return self._apply()
        if token.kind is Kind.NAME:
            return self.reference()
        raise self.unexpected("a value")

    def _apply(self) -> Expression:
        place = self.token.place
        name = self.name("a function")
        self.expect("(")
        arguments: list[Expression] = []
        while not self.take(")"):
            if arguments:
                self.expect(",")
            arguments.append(self.expression())
        return syntax.Apply(place=place, name=name, arguments=tuple(arguments))

    def reference(self) -> syntax.Reference:
        """Read the name of a variable or parameter. Raises Unexpected."""
        place = self.token.place
        node, name, index = "", self.name("a name"), None
        if self.take("."):
            node, name = name, self.name("a parameter of the node")
        if self.take("["):
            if self.token.kind is not Kind.NUMBER:
                text = "an element must be a plain number: the machine has no computed index"
                raise Unexpected(self.token.place, text)
            index = self.whole("an element")
            self.expect("]")
        return syntax.Reference(place=place, node=node, name=name, index=index)
