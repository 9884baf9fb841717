#!/usr/bin/env python3
"""Plants faults in a small tree and looks whether tidy.py finds each, and nothing else."""
import pathlib
import sys
import tempfile
import textwrap
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import tidy  # noqa: E402

good = {
    "sluice/sluice.h": "#pragma once\n#include \"sluice/api/a.h\"\n",
    "sluice/runtime/errors.h": "#pragma once\n  X(101, no_output, \"s\", \"r\")\n",
    "sluice/core/c.h": "#pragma once\n#include \"sluice/runtime/errors.h\"\n",
    "sluice/api/a.h": "#pragma once\n#include \"sluice/core/c.h\"\n",
    "docs/errors.md": "## SLU-101\n",
    "ARCHITECTURE.md": "See sluice/core/c.h, sluice/{api,core}, sluice/*/c.h and sluice/runtime.\n",
}


class TidyTest(unittest.TestCase):
    def problems(self, files: dict[str, str]) -> list[tuple[str, int, str]]:
        """(path, line, rule) of the problems of the good tree with `files` put in."""
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            for path, text in {**good, **files}.items():
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                (root / path).write_text(textwrap.dedent(text), encoding="utf-8")
            return [(p.path, p.line, p.rule) for p in tidy.check(root)]

    def lines(self, path: str, text: str, rule: str) -> list[int]:
        """Lines of `text`, put at `path`, that break `rule`."""
        return [line for where, line, name in self.problems({path: text}) if where == path and name == rule]

    def header(self, text: str) -> list[int]:
        """Lines of a public header, which begins with two lines of its own, that lack documentation."""
        return self.lines("sluice/api/a.h", "#pragma once\nnamespace sluice {\n" + textwrap.dedent(text) + "}\n", "doc")

    def test_a_good_tree_has_no_problem(self):
        self.assertEqual(self.problems({}), [])

    def test_an_include_that_points_up_is_found(self):
        self.assertEqual(self.lines("sluice/core/x.cc", '#include "sluice/api/a.h"\n', "layer"), [1])
        self.assertEqual(self.lines("sluice/connect/x.cc", '#include "sluice/core/c.h"\n', "layer"), [1])
        self.assertEqual(self.lines("sluice/core/x.cc", '\n#include <sluice/sluice.h>\n', "layer"), [2])
        self.assertEqual(self.lines("sluice/testkit/hand_x.cc", '#include "sluice/core/c.h"\n', "layer"), [1])

    def test_an_include_that_points_down_is_not(self):
        self.assertEqual(self.lines("sluice/api/x.cc", '#include "sluice/core/c.h"\n', "layer"), [])
        self.assertEqual(self.lines("sluice/ui/x.cc", '#include "sluice/api/a.h"\n', "layer"), [])
        self.assertEqual(self.lines("examples/x.cpp", '#include "sluice/sluice.h"\n', "layer"), [])
        self.assertEqual(self.lines("sluice/core/x_test.cc", '#include "sluice/testkit/simulation.h"\n', "layer"), [])

    def test_a_test_of_a_lower_layer_may_use_the_test_runtimes_only(self):
        self.assertEqual(self.lines("sluice/core/x_test.cc", '#include "sluice/testkit/testing.h"\n', "layer"), [1])

    def test_each_banned_name_is_found(self):
        for name in [
            "auto t = std::chrono::steady_clock::now();",
            "std::thread t;",
            "std::jthread t;",
            "std::this_thread::yield();",
            "using namespace std; sleep_for(1s);",
            "::sleep(1);",
            "usleep(5);",
            'int f = ::open("x", 0);',
            'fopen("x", "r");',
            "std::ifstream in;",
            "std::ofstream out;",
            "std::fstream both;",
            "int s = socket(1, 2, 3);",
            "int s = ::socket(1, 2, 3);",
            "std::random_device d;",
            "std::mt19937_64 g;",
            'std::getenv("X");',
            "std::filesystem::path p;",
            "void* p = mmap(nullptr, 1, 2, 3, 4, 5);",
            "auto child = fork();",
            "std::exit(1);",
        ]:
            for path in ["sluice/core/x.cc", "sluice/testkit/x.cc", "sluice/core/x_test.cc"]:
                with self.subTest(name=name, path=path):
                    self.assertIn(2, self.lines(path, f"\n{name}\n", "banned"))

    def test_names_that_look_like_banned_ones_are_not(self):
        for name in [
            "Time HandRuntime::now() const { return time_; }",
            "files.open(path);",
            "auto lines = ssc.socket_text_stream(host, port);",
            "// std::thread is banned",
            'throw Error("use std::thread");',
            'auto raw = R"(std::thread ")";',
            "long n = 1'000'000; char c = '\"'; // std::thread",
            "clock_.sleep_until(time);",
            "std::mutex m;",
            "flow.fork(3);",
        ]:
            with self.subTest(name=name):
                self.assertEqual(self.lines("sluice/core/x.cc", name + "\n", "banned"), [])

    def test_who_may_use_banned_names(self):
        self.assertEqual(self.lines("sluice/runtime/x.cc", "std::thread t;\n", "banned"), [])
        self.assertEqual(self.lines("examples/x.cpp", 'std::ifstream in("a.txt");\n', "banned"), [])
        self.assertEqual(self.lines("benchmarks/x.cc", "std::chrono::steady_clock::now();\n", "banned"), [])
        self.assertEqual(self.lines("tests/kill/x.cc", "fork();\n", "banned"), [])
        self.assertEqual(self.lines("examples/x.cpp", "socket(1, 2, 3);\n", "banned"), [1])
        self.assertEqual(self.lines("tests/scenario/x.cc", "std::thread t;\n", "banned"), [1])

    def test_a_rule_is_broken_on_purpose_with_a_reason(self):
        self.assertEqual(
            self.lines("sluice/core/x.cc", "std::thread t;  // tidy: allow banned: it says why\n", "banned"), []
        )
        self.assertEqual(
            self.lines("sluice/core/x.cc", "// tidy: allow banned: it says why\nstd::thread t;\n", "banned"), []
        )
        self.assertEqual(self.lines("sluice/core/x.cc", "std::thread t;  // tidy: allow banned\n", "banned"), [1])
        self.assertEqual(self.lines("sluice/core/x.cc", "std::thread t;  // tidy: allow doc: no\n", "banned"), [1])

    def test_undocumented_public_declarations_are_found(self):
        for text in [
            "struct A {\n  int x = 0;\n};\n",
            "class A {\n};\n",
            "enum class E { a, b };\n",
            "void f(int x);\n",
            "inline int f(int x) { return x; }\n",
            "template <class T>\nclass A : public B<T> {\n};\n",
            "template <class T, class F>\n  requires std::invocable<F, T>\nauto f(T x, F g) -> T;\n",
            "template <class T>\nauto f(T x) {\n  return x;\n}\n",
            "template <class T>\nconcept C = requires(T x) { x.f(); };\n",
            "std::vector<std::pair<int, int>> f(std::function<void(int)> g = {}, O options = {.a = 1});\n",
            "// An ordinary comment is no documentation.\nvoid f();\n",
        ]:
            with self.subTest(text=text):
                self.assertEqual(len(self.header("\n" + text)), 1)

    def test_undocumented_public_members_are_found(self):
        text = """
            /// Documented.
            class A {
             public:
              A();
              explicit A(int x) : x_{x}, y_(2) {}
              ~A() override;

              A& operator=(const A&) = delete;

              int size() const { return x_; }

              int sum() const { return x_; }

              /// Documented.
              int x() const;
              int y() const;

              template <class F>
              A map(F f) const
                requires std::invocable<F, int>
              {
                return f(x_);
              }

              int now() override;

             private:
              int secret();
              struct Inner;
              int x_ = 0;
              std::vector<int> y_{1, 2};
            };
            """
        lines = ("#pragma once\nnamespace sluice {\n" + textwrap.dedent(text)).split("\n")
        self.assertEqual([lines[n - 1].strip() for n in self.header(text)],
                         ["int sum() const { return x_; }", "template <class F>"])

    def test_what_needs_no_documentation(self):
        for text in [
            "/// Documented.\nvoid f();\n",
            "/// Documented.\ntemplate <class T>\nvoid f(T x);\n",
            "class Forward;\n",
            "template <class T>\nclass Forward;\n",
            "enum class Forward : int;\n",
            "using A = int;\n",
            "using std::swap;\n",
            "namespace detail {\nvoid f();\nstruct A { int f(); };\n}\n",
            "template <class T>\nint A<T>::size() const {\n  return 1;\n}\n",
            "template <>\nstruct codec<A> {\n  int x;\n};\n",
            "inline constexpr int a = f(1);\n",
            "static_assert(f(1));\n",
            "#define M(x) \\\n  void f(x);\n",
            "/// Both.\nvoid f();\nvoid g();\n",
            "/// Documented.\nclass A {\n public:\n\n  // ---- For the engine.\n\n  int f();\n\n private:\n};\n",
            "bool operator<(const A& a, const A& b);\n",
            "/// A place to wait.\nclass A {\n public:\n  void f();\n  void g();\n};\n",
        ]:
            with self.subTest(text=text):
                self.assertEqual(self.header("\n" + text), [])

    def test_declarations_after_a_hidden_part_are_seen(self):
        self.assertEqual(self.header("\nnamespace detail {\nstruct A { void f() {} };\n}\n\nvoid f();\n"), [8])
        self.assertEqual(self.header("\n/// D.\nvoid f() {\n  if (a) { b(); }\n}\n\nvoid g();\n"), [9])

    def test_error_codes_and_their_document_agree(self):
        errors = good["sluice/runtime/errors.h"]
        more = {"sluice/runtime/errors.h": errors + '  X(102, other, "s", "r")\n'}
        self.assertEqual(self.problems(more), [("sluice/runtime/errors.h", 3, "errors")])
        self.assertEqual(self.problems({"docs/errors.md": "SLU-101\nSLU-999\n"}), [("docs/errors.md", 2, "errors")])

    def test_kill_points_and_their_document_agree(self):
        table = "`no.place`\n\n| place |\n|---|\n| `a.b`, `c.d` | `no.place` |\n| `e.d` | x |\n"
        document = {"docs/kill_points.md": table}
        code = 'void f() {\n  kill_point("a.b");\n  kill_point(options_.name,\n             ".d");\n}\n'
        self.assertEqual(self.problems({**document, "sluice/core/x.cc": code}), [])
        # In a table only; a comment and a test name no place.
        no_code = '// kill_point("x.y");\n'
        test = {"sluice/core/x_test.cc": 'kill_point("x.y");\n'}
        self.assertEqual(
            self.problems({**document, **test, "sluice/core/x.cc": no_code}),
            [("docs/kill_points.md", line, "kill") for line in (5, 5, 6)],
        )
        for call in ['"a.c"', 'name, ".b.d"', 'name, "d"', "name, place"]:
            with self.subTest(call=call):
                files = {**document, "sluice/core/x.cc": code, "sluice/core/y.cc": f"\nkill_point({call});\n"}
                self.assertEqual(self.problems(files), [("sluice/core/y.cc", 2, "kill")])

    def test_a_path_that_is_gone_is_found(self):
        self.assertEqual(
            self.problems({"ARCHITECTURE.md": "\nThe batch is cut in `sluice/core/gone.cc`.\n"}),
            [("ARCHITECTURE.md", 2, "path")],
        )
        self.assertEqual(self.problems({"ARCHITECTURE.md": "sluice/{api,gone}\n"}), [("ARCHITECTURE.md", 1, "path")])

    def test_a_header_that_nobody_includes_is_found(self):
        alone = {"sluice/core/alone.h": "#pragma once\n"}
        self.assertEqual(self.problems(alone), [("sluice/core/alone.h", 1, "unused")])

    def test_long_lines_and_files_are_found(self):
        self.assertEqual(self.lines("sluice/core/x.cc", "\n// " + "x" * 118 + "\n", "length"), [2])
        self.assertEqual(self.lines("sluice/core/x.cc", "// " + "\u00e9" * 117 + "\n", "length"), [])
        self.assertEqual(self.lines("sluice/core/x.cc", "\n" * 801, "length"), [801])
        self.assertEqual(self.lines("sluice/core/x.cc", "\n" * 800, "length"), [])
        self.assertEqual(self.lines("docs/x.md", "| " + "x" * 200 + " |\n", "length"), [])

    def test_a_to_do_note_needs_an_issue(self):
        self.assertEqual(self.lines("sluice/core/x.cc", f"// {tidy.note}: later\n", "todo"), [1])
        self.assertEqual(self.lines("sluice/core/x.cc", f"// {tidy.note}(#12): later\n", "todo"), [])

    def test_an_empty_catch_is_found(self):
        self.assertEqual(self.lines("sluice/core/x.cc", "try {\n} catch (...) {\n  // Nothing.\n}\n", "catch"), [2])
        self.assertEqual(self.lines("sluice/core/x.cc", "try {\n} catch (...) {\n  ++failures;\n}\n", "catch"), [])

    def test_a_header_without_pragma_once_is_found(self):
        self.assertEqual(self.lines("sluice/core/x.h", "// text\n", "once"), [1])

    def test_paths_of_a_machine_are_found_in_every_text(self):
        path = "/" + "work" + "/x"
        self.assertEqual(self.problems({"docs/x.txt": f"\nsee {path}\n"}), [("docs/x.txt", 2, "machine")])
        self.assertEqual(self.lines("sluice/core/x.cc", f'auto p = "{path}";\n', "machine"), [1])
        self.assertEqual(self.lines("sluice/core/x.cc", f'auto p = "my{path}";\n', "machine"), [])

    def test_build_folders_are_not_looked_at(self):
        self.assertEqual(self.problems({"build/x.cc": "std::thread t;\n", ".git/x.h": "\n"}), [])
        self.assertEqual(self.problems({".git": "gitdir: " + "/ho" + "me/me/sluice\n"}), [])


if __name__ == "__main__":
    unittest.main()
