#!/usr/bin/env python3
"""Checks the source tree against the house rules that no compiler checks. Prints `file:line: rule: message`.

    tidy.py [ROOT]

To break a rule on purpose, say why on that line or the one above: `// tidy: allow RULE: because ...`.

  layer      an #include that points up the layers (table `may_include`)
  banned     a name that touches time, disk, network, threads or chance, outside sluice/runtime. Rule for the rest:
             sluice/** but runtime, tests, cmd: all of them are banned, tests too: they turn the clock by hand;
             examples, benchmarks: may read and write plain files and measure time, as a user's program does;
             tests/kill: nothing is banned, it is about real processes at real instants
  doc        a public declaration without `///` above. Public: sluice/sluice.h and the headers of api, connect and
             testkit, outside `detail`. Declarations without a blank line between them share one comment, and the
             first members of a class its own; operators, begin, end, size, empty and data speak for themselves.
             After a comment "---- For the engine" a class's members are not the user's
  errors     an error code that is missing from docs/errors.md, or only there
  kill       a place of kill_point("...") that is missing from the tables of docs/kill_points.md, or only there. The
             place of kill_point(name, ".place") is there when some name ends so
  path       a path named in ARCHITECTURE.md, README.md or CONTRIBUTING.md that is gone
  unused     a header that no file includes
  length     a line over 120 characters (tables of documents excepted), a source file over 800 lines
  todo       a to-do note without an issue number, TODO(#12) (spelled so here that it passes)
  catch      an empty catch block
  once       a header without #pragma once
  machine    a path of somebody's machine in any text file
"""
import bisect
import pathlib
import re
import sys
from typing import Iterable, Iterator, NamedTuple

may_include = {
    "runtime": {"runtime"},
    "core": {"core", "runtime"},
    "cluster": {"cluster", "core", "runtime"},
    "stream": {"stream", "core", "runtime"},
    "api": {"api", "stream", "cluster", "core", "runtime"},
    "connect": {"connect", "api", "runtime"},
    "ui": {"ui", "api", "runtime"},
    "testkit": {"testkit", "api", "cluster", "runtime"},
}
# The test runtimes know no other layer, so tests of every layer may use them (cmake/layers.cmake builds them apart).
test_runtimes = re.compile(r"sluice/testkit/(hand_|sim|faulty_|thrown)\w*\.h")

# (what is banned, the words for it, what to use instead, kind)
banned = [
    (r"::now\s*\((?!\s*\)\s*(?:const|override|noexcept|\{))", "::now()", "Runtime::clock().now()", "time"),
    (
        r"\bsleep_for\b|\bthis_thread\s*::\s*sleep|(?<![\w>])::u?sleep\s*\(|\b(?:usleep|nanosleep)\b"
        r"|(?<![\w.>:])sleep\s*\(\s*\d",
        "sleep",
        "Runtime::wait_for or a Condition; a test turns its clock by hand",
        "sleep",
    ),
    (r"\bclock_gettime\b|\bgettimeofday\b|\bstd::time\s*\(", "a system clock", "Runtime::clock()", "time"),
    (r"\bstd::j?thread\b|\bpthread_create\b|\bstd::async\b", "a thread", "Runtime::spawn or ::executors", "thread"),
    (r"\bthis_thread\b", "this_thread", "a Condition to wait; a name given to Runtime::spawn", "thread"),
    (r"(?<![\w>])::open(?:at)?\s*\(|\bfopen\s*\(|\bstd::[io]?fstream\b", "a file", "Runtime::files()", "disk"),
    (r"\bstd::filesystem\b", "std::filesystem", "Runtime::files()", "disk"),
    (r"(?<![\w>.])(?:::)?mmap\s*\(", "mmap", "a function of sluice/runtime", "memory"),
    (r"(?<![\w>.])(?:::)?socket\s*\(", "socket", "Runtime::transport()", "network"),
    (
        r"\brandom_device\b|(?<![\w>.:])(?:std::)?s?rand\s*\(|\bstd::mt19937",
        "chance",
        "Random with Runtime::random_seed()",
        "chance",
    ),
    (r"\b(?:secure_)?getenv\b", "getenv", "environment() of sluice/runtime/process.h", "environment"),
    (
        r"(?<![\w>.:])(?:::)?v?fork\s*\(|\bposix_spawnp?\b|\bpopen\s*\(|\bstd::system\s*\(",
        "a process",
        "spawn_self() of sluice/runtime/process.h",
        "process",
    ),
    (r"(?<![\w>.:])(?:std::|::)?(?:_exit|exit|quick_exit)\s*\(", "exit", "an exception, or return from main", "exit"),
]
# What a user's program may do.
user_kinds = {"time", "sleep", "thread", "disk", "exit", "environment"}

source_suffixes = {".h", ".cc", ".cpp"}
script_suffixes = {".py", ".sh", ".cmake"}
documents_with_paths = ["ARCHITECTURE.md", "README.md", "CONTRIBUTING.md"]
line_length_max = 120
file_lines_max = 800
note = "TO" + "DO"
machine_path = re.compile(r"(?<![\w.~$}])/(?:" + "|".join(["wor" + "k", "roo" + "t", "hom" + "e"]) + r")/")


class Problem(NamedTuple):
    path: str
    line: int
    rule: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.rule}: {self.message}"


class File:
    """A text file, with its code apart: comments, strings and preprocessor lines blanked, positions unchanged."""

    token = re.compile(
        r'//(?:[^\n\\]|\\.|\\\n)*'
        r"|/\*.*?\*/"
        r'|(?:u8|[uUL])?R"([^()\\\s]{0,16})\(.*?\)\1"'
        r'|"(?:[^"\\\n]|\\.)*"'
        r"|(?<![0-9a-zA-Z_])'(?:[^'\\\n]|\\.)*'",
        re.S,
    )

    def __init__(self, path: str, text: str):
        self.path = path
        self.text = text
        self.lines = text.split("\n")
        self.starts = [0]
        for line in self.lines:
            self.starts.append(self.starts[-1] + len(line) + 1)
        self.suffix = pathlib.PurePath(path).suffix
        self.is_source = self.suffix in source_suffixes
        self.is_script = self.suffix in script_suffixes or text.startswith("#!") or path.endswith("CMakeLists.txt")
        self.includes: list[tuple[int, str]] = []
        self.code = ""
        if self.is_source:
            directive = re.compile(r'^[ \t]*#[ \t]*include[ \t]*[<"]([^>"]+)', re.M)
            self.includes = [(self.line_at(m.start()), m[1]) for m in directive.finditer(text)]
            self.code = self.token.sub(lambda m: blank(m[0]), text)

    def line_at(self, position: int) -> int:
        return bisect.bisect_right(self.starts, position)

    def problem(self, line: int, rule: str, message: str) -> Iterator[Problem]:
        allowed = re.compile(rf"tidy: allow {rule}: \w+")
        above = self.lines[line - 2] if line >= 2 else ""
        if not allowed.search(self.lines[line - 1]) and not allowed.search(above):
            yield Problem(self.path, line, rule, message)


def blank(text: str) -> str:
    return re.sub(r"[^\n]", " ", text)


def check_layer(file: File) -> Iterator[Problem]:
    folder = re.match(r"sluice/(\w+)/", file.path)
    if not folder or folder[1] not in may_include:
        return
    own = folder[1]
    is_test = file.path.endswith("_test.cc")
    if is_test and own in ("api", "connect", "ui", "testkit"):
        return
    if is_test or (own == "testkit" and not test_runtimes.match(re.sub(r"\.cc$", ".h", file.path))):
        extra = test_runtimes
    else:
        extra = re.compile(r"(?!)")
    allowed = {"testkit", "runtime"} if test_runtimes.match(re.sub(r"\.cc$", ".h", file.path)) else may_include[own]
    for line, name in file.includes:
        target = re.match(r"sluice/(?:(\w+)/)?", name)
        if target and target[1] not in allowed and not extra.match(name):
            yield from file.problem(
                line, "layer", f"{own} may include {', '.join(sorted(allowed))} only, not {name}"
            )


def check_banned(file: File) -> Iterator[Problem]:
    top = file.path.split("/")[0]
    if file.path.startswith(("sluice/runtime/", "tests/kill/")):
        return
    for pattern, words, instead, kind in banned:
        if top in ("examples", "benchmarks") and kind in user_kinds:
            continue
        if top in ("tests", "cmd", "checks") and kind == "exit":
            continue
        for match in re.finditer(pattern, file.code):
            message = f"{words} belongs to sluice/runtime; use {instead}"
            yield from file.problem(file.line_at(match.start()), "banned", message)


class Declaration(NamedTuple):
    begin: int
    end: int
    text: str
    is_function: bool


def declarations(code: str) -> Iterator[Declaration]:
    """The declarations that users of a header see: of namespaces but detail, and of public parts of classes.

    No parser of C++: it follows braces and semicolons, which the formatter keeps regular. Preprocessor lines are gone.
    """
    code = re.sub(r"^[ \t]*#(?:[^\n\\]|\\.|\\\n)*", lambda m: blank(m[0]), code, flags=re.M)
    scopes: list[str] = ["visible"]  # or "hidden"
    position, size = 0, len(code)
    token = re.compile(r"[;{}()\[\]]")
    while position < size:
        while position < size and code[position].isspace():
            position += 1
        access = re.compile(r"(public|protected|private)\s*:(?!:)").match(code, position)
        if access:
            scopes[-1] = "visible" if access[1] == "public" and "hidden" not in scopes[:-1] else "hidden"
            position = access.end()
            continue
        if position < size and code[position] == "}":
            if len(scopes) > 1:
                scopes.pop()
            position += 1
            continue
        if position < size and code[position] == ";":
            position += 1
            continue
        begin, depth = position, 0
        while True:
            found = token.search(code, position)
            if not found:
                return
            position = found.end()
            char = found[0]
            if char in "([":
                depth += 1
            elif char in ")]":
                depth -= 1
            elif depth == 0 and char == ";":
                text = code[begin:position]
                if "hidden" not in scopes:
                    yield Declaration(begin, position, text, "(" in strip_templates(text))
                break
            elif depth == 0 and char == "}":  # the end of an enum's list, or of what was not understood
                if len(scopes) > 1:
                    scopes.pop()
                break
            elif char == "{":
                text = code[begin : position - 1]
                plain = strip_templates(text)
                if depth == 0 and re.match(r"\s*(?:inline\s+)?namespace\b|\s*extern\s*$", plain):
                    hidden = re.search(r"\b(?:detail|internal)\b", plain) or re.fullmatch(r"\s*namespace\s*", plain)
                    scopes.append("hidden" if hidden else "visible")
                    break
                if depth == 0 and re.search(r"\b(?:class|struct|union)\s", plain) and "(" not in plain:
                    if "hidden" not in scopes:
                        yield Declaration(begin, position, text + "{", False)
                    scopes.append("hidden" if re.search(r"\bclass\s", plain) else "visible")
                    break
                position = matching_brace(code, position)
                if depth == 0 and re.search(r"\benum\b", plain):
                    continue  # up to its semicolon
                before = text.rstrip()
                opens_body = re.search(r"(?:\)|\}|\bconst|\bnoexcept|\boverride|\bfinal|\w&&?|>|\w)$", before)
                initializer = re.search(r"\)\s*(?:noexcept\s*)?:(?!:)", plain) and not re.search(r"[)}]$", before)
                is_requires = re.search(r"\brequires\s*(?:\([^()]*\))?$|[=,(&|]$", before)
                if depth == 0 and "(" in plain and opens_body and not initializer and not is_requires:
                    if "hidden" not in scopes:
                        yield Declaration(begin, position, text + "{", True)
                    break


def matching_brace(code: str, position: int) -> int:
    depth = 1
    for match in re.compile(r"[{}]").finditer(code, position):
        depth += 1 if match[0] == "{" else -1
        if depth == 0:
            return match.end()
    return len(code)


def strip_templates(text: str) -> str:
    """Without `template <...>` heads, attributes and template arguments: `<` and `>` that pair up."""
    text = re.sub(r"\[\[.*?\]\]|alignas\([^)]*\)", " ", text, flags=re.S).replace("->", "  ")
    text = re.sub(r"\boperator\s*(?:<=>|<<|>>|<=|>=|<|>|\(\))", "operator_", text)
    before = None
    while before != text:
        before = text
        text = re.sub(r"<[^<>(){};]*(?:\([^<>{};]*\)[^<>(){};]*)*>", "", text, count=1)
    return re.sub(r"\btemplate\b", "", text)


def needs_comment(declaration: Declaration) -> bool:
    text = declaration.text
    plain = strip_templates(text).strip()
    if re.match(r"template\s*<\s*>|(using|typedef|friend|static_assert|namespace|extern)\b", text.strip()):
        return False
    if re.match(r"(using|friend)\b", plain):
        return False
    if re.match(r"(class|struct|union|enum)\b", plain):
        forward = re.fullmatch(r"(enum )?(class|struct|union)\s+[\w:]+\s*(:\s*[\w:]+\s*)?;", plain)
        without_head = re.sub(r"template\s*<.*?>\s*(?=class|struct)", "", text, flags=re.S)
        specialization = re.search(r"\b(class|struct)\s+[\w:]+\s*<", without_head)
        return not forward and not specialization
    if re.match(r"concept\b", plain):
        return True
    if not declaration.is_function:
        return False
    if re.search(r"\)[^()]*=\s*(delete|default)\s*;$|\boverride\b|\bfinal\b", plain):
        return False
    head = plain[: plain.index("(")]
    words = head.split()
    if not words or "=" in head:
        return False  # a variable with an initializer
    name = words[-1].lstrip("*&")
    if "::" in name or name.startswith("~"):
        return False  # a member's definition, documented where it is declared; a destructor
    if re.match(r"operator|(c?begin|c?end|size|empty|data)$", name):
        return False  # means the same everywhere
    is_constructor = all(word in ("explicit", "constexpr", "inline", "consteval") for word in words[:-1])
    return not is_constructor and not re.search(r"\)[^)]*->", plain[plain.index("(") :]) or "auto" in words


def check_doc(file: File) -> Iterator[Problem]:
    public = file.path == "sluice/sluice.h" or re.match(r"sluice/(api|connect|testkit)/\w+\.h$", file.path)
    if not public:
        return
    engines_part = False
    parts = []  # whether line n + 1 is in the engine's part of a class
    for line in file.lines:
        if re.match(r"\s*// ---- For the engine", line):
            engines_part = True
        elif re.match(r"\s*(public|protected|private):|};", line):
            engines_part = False
        parts.append(engines_part)
    covered_line = 0  # the declaration that begins on this line or above is part of a documented group
    for declaration in declarations(file.code):
        first, last = file.line_at(declaration.begin), file.line_at(declaration.end - 1)
        above = file.lines[first - 2].strip() if first >= 2 else ""
        documented = above.startswith("///") or "///" in file.lines[last - 1] or "///" in file.lines[first - 1]
        if documented or first <= covered_line:
            opens_class = declaration.text.endswith("{") and not declaration.is_function
            has_label = opens_class and re.match(r"\s*(public|protected|private):", file.lines[last])
            covered_line = last + (2 if has_label else 1)
        elif needs_comment(declaration) and not parts[first - 1]:
            words = " ".join(declaration.text.rstrip("{;").split())
            yield from file.problem(first, "doc", f"no /// above {words[:60]}")


def check_catch(file: File) -> Iterator[Problem]:
    for match in re.finditer(r"\bcatch\s*\([^)]*\)\s*\{\s*\}", file.code):
        yield from file.problem(file.line_at(match.start()), "catch", "empty: handle it, or count and report it")


def check_text(file: File) -> Iterator[Problem]:
    is_document = file.suffix == ".md"
    if file.is_source or file.is_script or is_document:
        for number, line in enumerate(file.lines, 1):
            if len(line) > line_length_max and not (is_document and re.search(r"^\s*\||https?://", line)):
                yield from file.problem(number, "length", f"{len(line)} characters, at most {line_length_max}")
    if file.is_source or file.is_script:
        if len(file.lines) - 1 > file_lines_max:
            yield Problem(file.path, file_lines_max + 1, "length", f"over {file_lines_max} lines: split the file")
        for number, line in enumerate(file.lines, 1):
            if re.search(rf"\b(?:{note}(?!\(#\d+\))|FIX" + r"ME|XX" + r"X)\b", line):
                yield from file.problem(number, "todo", f"needs an issue number: {note}(#12)")
    if file.path != "LICENSE":
        for match in machine_path.finditer(file.text):
            yield from file.problem(file.line_at(match.start()), "machine", f"a path of one machine: {match[0]}")
    if file.suffix == ".h" and not re.search(r"^#pragma once$", file.text, re.M):
        yield from file.problem(1, "once", "no #pragma once")


def check_errors(files: dict[str, File]) -> Iterator[Problem]:
    table, document = files.get("sluice/runtime/errors.h"), files.get("docs/errors.md")
    if not table:
        return
    codes = {m[1]: table.line_at(m.start()) for m in re.finditer(r"\bX\((\d+), \w+,", table.text)}
    listed = {m[1]: m.start() for m in re.finditer(r"SLU-(\d+)", document.text)} if document else {}
    for code, line in codes.items():
        if code not in listed:
            yield from table.problem(line, "errors", f"SLU-{code} is missing from docs/errors.md")
    for code, position in listed.items():
        if document and code not in codes:
            yield from document.problem(document.line_at(position), "errors", f"SLU-{code} is not in errors.h")


def check_kill_points(files: dict[str, File]) -> Iterator[Problem]:
    document = files.get("docs/kill_points.md")
    listed = {}  # name: position
    for row in re.finditer(r"^\|([^|]*)\|", document.text, re.M) if document else []:
        listed.update({m[1]: row.start(1) + m.start() for m in re.finditer(r"`([\w.]+)`", row[1])})
    named = set()
    for file in files.values():
        if not file.is_source or not file.path.startswith("sluice/") or file.path.endswith("_test.cc"):
            continue
        for call in re.finditer(r"(?<!void )\bkill_point\(", file.code):  # in code, hence in no comment
            literal = re.compile(r"kill_point\((?:[^;\"]*,)?\s*\"([^\"]*)\"\)").match(file.text, call.start())
            line = file.line_at(call.start())
            if not literal:
                if file.path != "sluice/runtime/kill_point.h":
                    yield from file.problem(line, "kill", "the place must be a literal")
                continue
            place = literal[1]
            names = {name for name in listed if name == place or (place.startswith(".") and name.endswith(place))}
            named |= names
            if not names:
                yield from file.problem(line, "kill", f"{place} is missing from docs/kill_points.md")
    for name, position in listed.items():
        if document and name not in named:
            yield from document.problem(document.line_at(position), "kill", f"no kill_point is called {name}")


def check_paths(root: pathlib.Path, files: dict[str, File]) -> Iterator[Problem]:
    folders = "sluice|cmd|python|tests|benchmarks|examples|docs|checks|cmake"
    for name in documents_with_paths:
        if name not in files:
            continue
        file = files[name]
        for match in re.finditer(rf"(?<![\w./<-])(?:{folders})/[\w./*{{}},-]*", file.text):
            written = match[0].rstrip(".,-/")
            group = re.search(r"\{([^}]*)\}", written)
            if re.search(r"NAME|PATH", written):
                continue  # a pattern, no path
            for part in group[1].split(",") if group else [""]:
                path = written.replace(group[0], part, 1) if group else written
                path = re.sub(r"/\.cc\b.*", "", path)  # x.h/.cc
                there = any(root.glob(path)) if "*" in path else (root / path).exists()
                if not there and re.fullmatch(r"sluice/sluice|sluice/\w+\.h", path):
                    there = path == "sluice/sluice"
                if not there:
                    yield from file.problem(file.line_at(match.start()), "path", f"{path} is gone")


def check_unused(files: dict[str, File]) -> Iterator[Problem]:
    included = {name for file in files.values() for _, name in file.includes}
    for path, file in files.items():
        if file.suffix == ".h" and path not in included and path != "sluice/sluice.h":
            if not any(path.endswith("/" + name) for name in included):
                yield from file.problem(1, "unused", "no file includes this header")


def read_tree(root: pathlib.Path) -> Iterable[File]:
    """All text files but those that builds and editors make."""
    todo = [root]
    while todo:
        for entry in sorted(todo.pop().iterdir()):
            if entry.is_symlink() or entry.name == ".git":  # in a worktree a file
                continue
            if entry.is_dir():
                hidden = entry.name.startswith(".") and entry.name not in (".ci", ".github")
                if not hidden and entry.name not in ("build", "__pycache__", "node_modules"):
                    todo.append(entry)
            elif entry.stat().st_size < 2_000_000:
                content = entry.read_bytes()
                if b"\0" not in content:
                    yield File(entry.relative_to(root).as_posix(), content.decode("utf-8", "replace"))


def check(root: pathlib.Path) -> list[Problem]:
    files = {file.path: file for file in read_tree(root)}
    problems: list[Problem] = []
    for file in files.values():
        problems += check_text(file)
        if file.is_source:
            problems += check_layer(file)
            problems += check_banned(file)
            problems += check_doc(file)
            problems += check_catch(file)
    problems += check_errors(files)
    problems += check_kill_points(files)
    problems += check_paths(root, files)
    problems += check_unused(files)
    return sorted(problems)


def main() -> int:
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent).resolve()
    problems = check(root)
    for problem in problems:
        print(problem)
    if problems:
        print(f"tidy: {len(problems)} problems", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
