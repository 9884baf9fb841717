#!/usr/bin/env python3
"""Compiles one program that must be refused by the compiler, with a message that helps.

    run.py PROGRAM --compiler COMPILER -- FLAG...

Lines `// expect: words` in the program: compilation must fail and its output contain the words of every such line,
case and line breaks aside. `// expect-ok` instead makes it a control: it must compile without a warning. Write a
control beside each refused program that differs in the mistake only; it proves that the mistake is what is refused.
"""
import os
import re
import subprocess
import sys


def verdict(source: str, status: int, output: str) -> str:
    """An empty string when `output` is what the program expects, else what is wrong."""
    expected = re.findall(r"^// expect: *(.*\S)", source, re.M)
    expect_ok = re.search(r"^// expect-ok\b", source, re.M) is not None
    if bool(expected) == expect_ok:
        return "the program needs either lines `// expect: words` or one line `// expect-ok`"
    if expect_ok:
        return "" if status == 0 and not output.strip() else "it should compile without a warning:"
    if status == 0:
        return "it compiles, but should be refused with: " + "; ".join(expected)
    plain = " ".join(output.split()).lower()
    missing = [words for words in expected if " ".join(words.split()).lower() not in plain]
    return "".join(f"the compiler's output lacks: {words}\n" for words in missing)


def main() -> int:
    own, flags = sys.argv[1:], []
    if "--" in own:
        split = own.index("--")
        own, flags = own[:split], own[split + 1 :]
    if len(own) != 3 or own[1] != "--compiler":
        sys.exit(__doc__)
    program, compiler = own[0], own[2]
    done = subprocess.run(
        # Messages in English, unwrapped and without quotes that depend on the locale.
        [compiler, *flags, "-fsyntax-only", "-fmessage-length=0", program],
        capture_output=True,
        text=True,
        env={**os.environ, "LC_ALL": "C"},
    )
    output = done.stdout + done.stderr
    with open(program, encoding="utf-8") as file:
        # The words must come from the compiler's message, not from its quotation of the program's own comment.
        problem = verdict(file.read(), done.returncode, re.sub(r"// expect.*", "", output))
    if problem:
        print(f"{program}: {problem}\n{output}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
