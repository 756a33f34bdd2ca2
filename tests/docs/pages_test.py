"""The command's man pages and completions say what the command says; they are made from it.

usage: pages_test.py COMMAND PROSE   (the binary, and the directory of what pages say besides)
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

COMMAND, PROSE = "", ""


def run(*words, **options):
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=60,
                          **options)


def commands_of(*path):
    """The subcommands that --help shows: the words of each."""
    found = []
    in_list = False
    for line in run(COMMAND, *path, "--help").stdout.splitlines():
        if re.match(r"^\S", line):
            in_list = line.endswith(":") and line not in ("Options:", "Positionals:", "Examples:")
        match = re.match(r"^  ([a-z]+) {3,}\S", line)
        if in_list and match:
            found.append((*path, match.group(1)))
    return found


def options_of(*path):
    return set(re.findall(r"^  (?:-\w,)?(--[a-z-]+)", run(COMMAND, *path, "--help").stdout, re.M))


class Pages(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.directory = tempfile.mkdtemp()
        made = run(COMMAND, "generate", cls.directory, "--prose", PROSE, "--date", "2026-01-01")
        assert made.returncode == 0, made.stderr

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.directory)

    def path(self, name):
        return os.path.join(self.directory, name)

    def shown(self, name):
        text = run("man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", self.path(name),
                   env=dict(os.environ, MANWIDTH="100")).stdout
        return re.sub(".\x08", "", text)  # bold and underlined

    def test_no_page_has_mistakes(self):
        pages = [name for name in os.listdir(self.directory) if re.search(r"\.[1-8]$", name)]
        self.assertGreater(len(pages), 20)
        for name in pages:
            checked = run("groff", "-man", "-Tutf8", "-ww", "-z", self.path(name))
            self.assertEqual(checked.stderr, "", name)

    def test_each_prose_has_its_page(self):
        for name in os.listdir(PROSE):
            self.assertTrue(os.path.exists(self.path(name)), name)

    def test_each_option_is_in_its_page(self):
        commands = commands_of()
        self.assertGreater(len(commands), 12)
        for path in commands:
            text = self.shown("ashlar-" + "-".join(path) + ".8")
            if path == ("add",):
                continue
            for sub in [path, *commands_of(*path)]:
                for option in options_of(*sub):
                    self.assertIn(option, text, sub)
        everywhere = self.shown("ashlar-add.8")
        for path in commands_of("add"):
            text = self.shown(f"ashlar-{path[1]}.7")
            for option in options_of(*path):
                self.assertIn(option, text + everywhere, path)

    def completed(self, *words):
        line = f"""source {self.path("ashlar.bash")}
compopt() {{ :; }}
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _ashlar; printf '%s\\n' "${{COMPREPLY[@]}}" """
        return run("bash", "-c", line, "_", "ashlar", *words).stdout.split()

    def test_bash_completes(self):
        self.assertEqual(set(self.completed("")) - {"--help", "--version"},
                         {path[0] for path in commands_of()})
        self.assertEqual(self.completed("re"), ["resize", "recover", "replay"])
        self.assertEqual({(("add",) + (name,)) for name in self.completed("add", "")} -
                         {("add", "--help")}, set(commands_of("add")))
        for path in [*commands_of(), *commands_of("add")]:
            self.assertEqual({word for word in self.completed(*path, "--")}, options_of(*path),
                             path)
        self.assertEqual(self.completed("add", "mem", "--data-path", "zero"),
                         ["zero-copy", "zero-copy-manual"])
        self.assertEqual(self.completed("add", "mem", "--queues", "2", "--recovery", "re"),
                         ["reissue"])
        self.assertEqual(self.completed("set", "0", "--log-level", ""),
                         ["info", "warning", "error"])

    def test_zsh_and_fish_understand_theirs(self):
        for shell, name in (("zsh", "_ashlar"), ("fish", "ashlar.fish")):
            checked = run(shell, "-n", self.path(name))
            self.assertEqual((checked.returncode, checked.stderr), (0, ""), shell)
        words = run("fish", "-c", f"source {self.path('ashlar.fish')}; "
                    "complete -C 'ashlar add mem --recovery re'").stdout.split()
        self.assertEqual(words[0], "reissue")

    def test_each_command_has_examples(self):
        for path in [*commands_of(), *commands_of("add")]:
            self.assertIn("Example", run(COMMAND, *path, "--help").stdout, path)


if __name__ == "__main__":
    COMMAND, PROSE = (os.path.abspath(word) for word in sys.argv[1:3])
    unittest.main(argv=sys.argv[:1], verbosity=2)
