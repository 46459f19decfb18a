"""Turn the shell's `proc` lines into procedures and back. Source: dish.md 3.

Words are split on blanks, single or double quotes group, a `#` starts a comment only where a line
begins. Two additions make the round trip exact for every byte a procedure can hold:
quoted and unquoted pieces that touch form one word, and a quoted piece may run over line ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dish.errors import AssemblyError, MisuseError
from dish.isa import OPCODE_BY_NAME, OPCODES, FieldKind, Opcode, OpcodeRow, operator_by_text
from dish.program import (
    MAX_INSTRUCTIONS,
    MAX_NODE,
    MAX_SLOT,
    Instruction,
    Procedure,
    encode_instruction,
)

_QUOTES = "\"'"
_BLANKS = " \t\r"
# Lines that a plan script holds for the shell and that say nothing about the bytes.
_SHELL_ONLY = frozenset(("del", "slots", "run", "size", "list", "status", "stop"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """One word and where it begins. A quoted word is never an option."""

    text: str
    line: int
    column: int
    quoted: bool = False

    def error(self, reason: str) -> AssemblyError:
        """Return an error that points at this word."""
        return AssemblyError(self.line, self.column, reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """One assembled procedure; `slot` and `node` come from its `proc push` line, if there is one.

    `lines` holds the source line of each instruction.
    """

    procedure: Procedure
    slot: int | None = None
    node: int | None = None
    lines: tuple[int, ...] = ()


class _Scanner:
    """Split text into lines of words."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._line = 1
        self._line_start = 0

    def _position(self, at: int) -> tuple[int, int]:
        return self._line, at - self._line_start + 1

    def _newline(self) -> None:
        self._line += 1
        self._line_start = self._at

    def lines(self) -> Iterator[list[Word]]:
        words: list[Word] = []
        while self._at < len(self._text):
            character = self._text[self._at]
            if character == "\n":
                self._at += 1
                self._newline()
                yield words
                words = []
            elif character in _BLANKS:
                self._at += 1
            elif character == "#" and not words:
                end = self._text.find("\n", self._at)
                self._at = len(self._text) if end < 0 else end
            else:
                words.append(self._word())
        yield words

    def _word(self) -> Word:
        line, column = self._position(self._at)
        pieces: list[str] = []
        quoted = False
        while self._at < len(self._text) and self._text[self._at] not in _BLANKS + "\n":
            if self._text[self._at] in _QUOTES:
                quoted = True
                pieces.append(self._quoted())
            else:
                start = self._at
                while (
                    self._at < len(self._text)
                    and self._text[self._at] not in _BLANKS + _QUOTES + "\n"
                ):
                    self._at += 1
                pieces.append(self._text[start : self._at])
        return Word(text="".join(pieces), line=line, column=column, quoted=quoted)

    def _quoted(self) -> str:
        line, column = self._position(self._at)
        end = self._text.find(self._text[self._at], self._at + 1)
        if end < 0:
            raise AssemblyError(line, column, "quote is never closed")
        content = self._text[self._at + 1 : end]
        newlines = content.count("\n")
        if newlines:
            self._line += newlines
            self._line_start = self._at + 2 + content.rfind("\n")
        self._at = end + 1
        return content


def number(word: Word, low: int, high: int, what: str) -> int:
    """Read a plain decimal number. Raises AssemblyError outside `low`..`high`."""
    text = word.text
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise word.error(f"{what} {text!r} is not a number")
    if not low <= int(text) <= high:
        raise word.error(f"{what} {text} is outside {low}..{high}")
    return int(text)


def parse_instruction(words: list[Word], default_node: int = 0) -> Instruction:
    """Read the words of one instruction, without the leading `proc`.

    `default_node` holds where none is given. Raises AssemblyError.
    """
    row = OPCODE_BY_NAME.get(words[0].text)
    if row is None:
        raise words[0].error(f"unknown instruction {words[0].text!r}")
    # The node of a noop means nothing; real shells encode 0 and ignore what follows the word.
    is_noop = row.opcode is Opcode.NOOP
    node, operands = _options(words[1:], 0 if is_noop else default_node)
    if is_noop:
        return _build(row, node, [])
    if len(operands) < len(row.typed):
        missing = row.typed[len(operands)]
        end = operands[-1] if operands else words[0]
        raise end.error(f"{row.name}: {missing} is missing")
    if len(operands) > len(row.typed) + 1:
        raise operands[len(row.typed) + 1].error(f"{row.name}: too many words")
    if len(operands) == len(row.typed) + 1:
        node = number(operands[-1], 0, MAX_NODE, "node")
    return _build(row, node, operands)


def _options(words: list[Word], node: int) -> tuple[int, list[Word]]:
    """Take `-n NODE` and `-t MS`, which count only before the first operand."""
    rest = list(words)
    while rest and not rest[0].quoted and rest[0].text in ("-n", "--node", "-t", "--timeout"):
        option = rest.pop(0)
        if not rest:
            raise option.error(f"{option.text} needs a number")
        value = rest.pop(0)
        if option.text in ("-n", "--node"):
            node = number(value, 0, MAX_NODE, "node")
        else:
            number(value, 0, 10**9 - 1, "timeout")
    return node, rest


def _build(row: OpcodeRow, node: int, operands: list[Word]) -> Instruction:
    texts: dict[str, str] = {}
    operator = slot = 0
    kinds = {field.attribute: field.kind for field in row.fields}
    for attribute, word in zip(row.typed, operands, strict=False):
        if kinds[attribute] is FieldKind.OPERATOR:
            found = operator_by_text(row, word.text)
            if found is None:
                known = " ".join(entry.text for entry in row.operators)
                raise word.error(f"{row.name}: unknown operator {word.text!r} (one of {known})")
            operator = found.number
        elif kinds[attribute] is FieldKind.SLOT:
            slot = number(word, 0, MAX_SLOT, "slot")
        else:
            texts[attribute] = word.text
    instruction = Instruction(
        opcode=row.opcode,
        node=node,
        operator=operator,
        slot=slot,
        first=texts.get("first", ""),
        second=texts.get("second", ""),
        result=texts.get("result", ""),
        value=texts.get("value", ""),
    )
    try:
        encode_instruction(instruction)
    except MisuseError as error:
        raise operands[0].error(str(error)) from None
    return instruction


class _Assembler:
    def __init__(self, default_node: int) -> None:
        self.node = default_node
        self.listings: list[Listing] = []
        self.instructions: list[Instruction] = []
        self.lines: list[int] = []
        self.touched = False

    def line(self, words: list[Word]) -> None:
        head = words[0]
        if head.text == "node" and len(words) == 2:
            self.node = number(words[1], 0, MAX_NODE, "node")
            return
        if head.text == "proc":
            words = words[1:]
            if not words:
                raise head.error("proc: what?")
        command = words[0].text
        if command == "new":
            self.finish(None, None)
        elif command == "push":
            self.push(words)
        elif command == "pop":
            self.pop(words)
        elif command not in _SHELL_ONLY or head.text != "proc":
            self.append(words)

    def append(self, words: list[Word]) -> None:
        if len(self.instructions) >= MAX_INSTRUCTIONS:
            raise words[0].error("Maximum number of instructions reached")
        self.instructions.append(parse_instruction(words, self.node))
        self.lines.append(words[0].line)
        self.touched = True

    def push(self, words: list[Word]) -> None:
        node, operands = _options(words[1:], self.node)
        if not 1 <= len(operands) <= 2:
            raise words[0].error("push takes a slot and perhaps a node")
        slot = number(operands[0], 0, MAX_SLOT, "slot")
        if len(operands) == 2:
            node = number(operands[1], 0, MAX_NODE, "node")
        self.listings.append(self.listing(slot, node))
        self.touched = False

    def pop(self, words: list[Word]) -> None:
        if not self.instructions:
            raise words[0].error("there is no instruction to remove")
        index = len(self.instructions) - 1
        if len(words) > 1:
            index = number(words[1], 0, index, "index")
        del self.instructions[index], self.lines[index]
        self.touched = True

    def listing(self, slot: int | None, node: int | None) -> Listing:
        procedure = Procedure(instructions=tuple(self.instructions))
        return Listing(procedure=procedure, slot=slot, node=node, lines=tuple(self.lines))

    def finish(self, slot: int | None, node: int | None) -> None:
        if self.touched:
            self.listings.append(self.listing(slot, node))
        self.instructions, self.lines, self.touched = [], [], False


def assemble(text: str, default_node: int = 0) -> tuple[Listing, ...]:
    """Read a script of `proc` lines (the word `proc` may be left out of instructions).

    Each `proc push` closes one procedure, `proc new` starts the next; a last one without push has
    no slot. `node N` sets the default node, as in the shell. Raises AssemblyError.
    """
    assembler = _Assembler(default_node)
    for words in _Scanner(text).lines():
        if words:
            assembler.line(words)
    assembler.finish(None, None)
    return tuple(assembler.listings)


def assemble_one(text: str, default_node: int = 0) -> Procedure:
    """Read exactly one procedure. Raises AssemblyError if there is none or more."""
    listings = assemble(text, default_node)
    if len(listings) > 1:
        line = listings[1].lines[0] if listings[1].lines else 1
        raise AssemblyError(line, 1, "a second procedure begins here")
    return listings[0].procedure if listings else Procedure()


def quote(text: str) -> str:
    """Write a word so that the scanner reads it back exactly."""
    plain = text and not any(character in _BLANKS + _QUOTES + "\n#" for character in text)
    if plain and not text.startswith("-"):
        return text
    pieces: list[str] = []
    rest = text
    while rest:
        mark = "'" if '"' in rest and (rest[0] == '"' or "'" not in rest) else '"'
        cut = rest.find(mark)
        piece = rest if cut < 0 else rest[:cut]
        pieces.append(f"{mark}{piece}{mark}")
        rest = rest[len(piece) :]
    return "".join(pieces) or '""'


def disassemble_instruction(instruction: Instruction) -> str:
    """Return the shell line of one instruction, without `proc`; its node is always written out."""
    row = OPCODES[instruction.opcode]
    kinds = {field.attribute: field.kind for field in row.fields}
    words = [row.name]
    for attribute in row.typed:
        if kinds[attribute] is FieldKind.OPERATOR:
            words.append(row.operators[instruction.operator].text)
        elif kinds[attribute] is FieldKind.SLOT:
            words.append(str(instruction.slot))
        else:
            words.append(quote(getattr(instruction, attribute)))
    if row.opcode is not Opcode.NOOP:
        words.append(str(instruction.node))
    elif instruction.node:
        words += ["-n", str(instruction.node)]
    return " ".join(words)


def disassemble(procedure: Procedure, slot: int | None = None, node: int | None = None) -> str:
    """Return a script that assembles to the same bytes; with a slot it ends in `proc push`."""
    lines = ["proc new"]
    lines += ["proc " + disassemble_instruction(entry) for entry in procedure.instructions]
    if slot is not None:
        lines.append(f"proc push {slot}" if node is None else f"proc push {slot} {node}")
    return "\n".join(lines) + "\n"
