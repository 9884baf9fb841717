#!/usr/bin/env python3
"""Checks the documents: links lead somewhere, and programs in them compile.

    docs.py [--compiler COMPILER -- FLAG...]

Documents are the *.md files of the repository's root and of docs/. Checked are
  link      a relative link to a file that is not there, or to a heading that is not there;
  program   a ```cpp block with `int main` that the compiler refuses (only with --compiler);
  copy      a block after the line `<!-- from PATH -->` that is not in the file PATH, word for word. Blocks with
            `...` or without `int main` are fragments, and only this last check can keep them true.
"""
import concurrent.futures
import os
import pathlib
import re
import subprocess
import sys
from typing import Iterator, NamedTuple

root = pathlib.Path(__file__).resolve().parent.parent


class Block(NamedTuple):
    line: int  # of its first line of code
    language: str
    text: str
    copied_from: str  # path, or ""


def blocks(text: str) -> Iterator[Block]:
    lines = text.split("\n")
    number = 0
    while number < len(lines):
        begin = re.match(r"( *)```(\w*)", lines[number])
        if begin:
            above = lines[number - 1].strip() if number else ""
            source = re.fullmatch(r"<!-- from (\S+) -->", above)
            end = number + 1
            while end < len(lines) and lines[end].strip() != "```":
                end += 1
            body = [line.removeprefix(begin[1]) for line in lines[number + 1 : end]]
            yield Block(number + 2, begin[2], "\n".join(body) + "\n", source[1] if source else "")
            number = end
        number += 1


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to headings, and those written as <a id="...">."""
    found = set(re.findall(r'<a (?:id|name)="([^"]+)"', text))
    counts: dict[str, int] = {}
    for heading in re.findall(r"^#+ +(.*?) *$", re.sub(r"^ *```.*?^ *```", "", text, flags=re.M | re.S), re.M):
        anchor = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        count = counts.get(anchor, 0)
        counts[anchor] = count + 1
        found.add(anchor if count == 0 else f"{anchor}-{count}")
    return found


def check_links(path: pathlib.Path, text: str) -> Iterator[str]:
    name = path.relative_to(root)
    plain = re.sub(r"^ *```.*?^ *```", lambda m: "\n" * m[0].count("\n"), text, flags=re.M | re.S)
    plain = re.sub(r"`[^`\n]*`", "", plain)
    for match in re.finditer(r"\]\(<?([^)>\s]+)>?(?: \"[^\"]*\")?\)|^\[[^\]]+\]: (\S+)", plain, re.M):
        link = match[1] or match[2]
        line = plain.count("\n", 0, match.start()) + 1
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        if not target.exists():
            yield f"{name}:{line}: link: {link} is not there"
        elif anchor and target.suffix == ".md" and anchor not in anchors(target.read_text(encoding="utf-8")):
            yield f"{name}:{line}: link: no heading #{anchor} in {target.relative_to(root)}"


def check_copies(path: pathlib.Path, text: str) -> Iterator[str]:
    name = path.relative_to(root)
    for block in blocks(text):
        if block.copied_from:
            source = root / block.copied_from
            if not source.exists():
                yield f"{name}:{block.line}: copy: {block.copied_from} is not there"
            elif block.text not in source.read_text(encoding="utf-8"):
                yield f"{name}:{block.line}: copy: differs from {block.copied_from}"


def compile_block(path: pathlib.Path, block: Block, command: list[str]) -> str:
    name = path.relative_to(root)
    done = subprocess.run(
        [*command, "-fsyntax-only", "-x", "c++", "-"],
        input=f'#line {block.line} "{name}"\n{block.text}',
        capture_output=True,
        text=True,
    )
    return f"{name}:{block.line}: program: does not compile\n{done.stderr}" if done.returncode else ""


def main() -> int:
    arguments = sys.argv[1:]
    command: list[str] = []
    if arguments:
        if len(arguments) < 3 or arguments[0] != "--compiler" or arguments[2] != "--":
            sys.exit(__doc__)
        command = [arguments[1], *arguments[3:]]
    documents = sorted([*root.glob("*.md"), *root.glob("docs/*.md")])
    problems: list[str] = []
    programs = []
    for path in documents:
        text = path.read_text(encoding="utf-8")
        problems += check_links(path, text)
        problems += check_copies(path, text)
        for block in blocks(text):
            if block.language == "cpp" and re.search(r"\bint main\b", block.text):
                programs.append((path, block))
    if command:
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            results = pool.map(lambda item: compile_block(*item, command), programs)
            problems += [result for result in results if result]
    for problem in problems:
        print(problem)
    compiled = len(programs) if command else 0
    print(f"docs: {len(documents)} documents, {compiled} programs compiled, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
