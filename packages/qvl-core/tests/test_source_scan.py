"""No package runs code that comes from a file: no unpickling, no eval, no shell."""

import ast
from pathlib import Path

import pytest

PACKAGES = Path(__file__).parents[2]
FILES = sorted(PACKAGES.glob("*/src/**/*.py"))

BANNED_NAMES = {"eval", "exec", "__import__"}
BANNED_ATTRIBUTES = {
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "cPickle.load", "dill.load", "dill.loads", "joblib.load"),
    *("torch.load", "yaml.load", "marshal.loads", "shelve.open", "os.system", "os.popen", "pd.read_pickle"),
    *("pandas.read_pickle", "subprocess.getoutput", "subprocess.getstatusoutput"),
}
BANNED_FLAGS = {"shell", "allow_pickle", "trust_remote_code"}


def banned_calls(source: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            flags = [
                keyword.arg
                for keyword in node.keywords
                if keyword.arg in BANNED_FLAGS
                and not (isinstance(keyword.value, ast.Constant) and keyword.value.value is False)
            ]
            if name in BANNED_NAMES | BANNED_ATTRIBUTES or flags:
                found.append(f"line {node.lineno}: {name}({', '.join(map(str, flags))})")
        elif isinstance(node, ast.ImportFrom) and node.module in ("pickle", "dill", "joblib", "marshal", "shelve"):
            found.append(f"line {node.lineno}: from {node.module} import")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGES)))
def test_source_runs_no_code_from_files(path):
    assert banned_calls(path.read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle\npickle.load(f)",
        "torch.load('x')",
        "eval('1')",
        "exec(text)",
        "subprocess.run('ls', shell=True)",
        "np.load(f, allow_pickle=True)",
        "AutoModel.from_pretrained(x, trust_remote_code=flag)",
        "from pickle import load",
    ],
)
def test_the_scan_finds_what_it_is_for(source):
    assert banned_calls(source)


def test_the_scan_lets_the_neighbours_pass():
    assert banned_calls("model.eval()\nsubprocess.run(['ls'], shell=False)\nnp.load(f, allow_pickle=False)") == []
    assert FILES
