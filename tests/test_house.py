"The house holds: sources and what is made from them are in step, imports run one way, the light side is light"
import ast, configparser, importlib, inspect, json, re, shutil, subprocess, sys, sysconfig, textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PKG, NBS = ROOT/'bear_classifier', ROOT/'nbs'
NOTEBOOKS = sorted(NBS.glob('*.ipynb'))
MODULES = {re.sub(r'^\d+\w?_', '', p.stem): int(re.match(r'\d+', p.stem)[0]) for p in NOTEBOOKS
           if re.match(r'\d', p.stem) and '#| default_exp' in p.read_text(encoding='utf-8')}
LIGHT = ['core', 'practice', 'fetch', 'gather', 'infer', 'app', 'serve', 'api', 'cli']
HEAVY = {'torch', 'torchvision', 'fastai', 'pandas', 'matplotlib', 'sklearn', 'scipy', 'ddgs', 'imagehash', 'timm', 'onnx'}


def source(nb):
    return [c for c in json.loads(nb.read_text(encoding='utf-8'))['cells'] if c['cell_type'] == 'code']


@pytest.fixture(scope='module')
def rebuilt(tmp_path_factory):
    "A copy of the project where modules were exported and notebooks cleaned again"
    if importlib.util.find_spec('nbdev') is None: pytest.skip('nbdev is not installed: the library is tested without it')
    copy = tmp_path_factory.mktemp('house')/'project'
    copy.mkdir()
    for o in ('settings.ini', 'setup.py', 'pyproject.toml', 'nbs', 'bear_classifier'):
        (shutil.copytree if (ROOT/o).is_dir() else shutil.copy)(ROOT/o, copy/o)
    for p in (copy/'bear_classifier').glob('*.py'):
        if p.name != '__init__.py': p.unlink()
    bin = Path(sys.executable).parent
    for cmd in ('nbdev_export', 'nbdev_clean'): subprocess.run([bin/cmd], cwd=copy, check=True, capture_output=True)
    return copy


def test_modules_are_in_step_with_notebooks(rebuilt):
    now, again = ({p.name: p.read_text(encoding='utf-8') for p in (d/'bear_classifier').glob('*.py')} for d in (ROOT, rebuilt))
    assert set(now) == set(again)
    assert [n for n in now if now[n] != again[n]] == [], 'run nbdev_export'


def test_notebooks_are_clean(rebuilt):
    assert [p.name for p in NOTEBOOKS if p.read_bytes() != (rebuilt/'nbs'/p.name).read_bytes()] == [], 'run nbdev_clean'
    for p in NOTEBOOKS:
        assert 'widgets' not in json.loads(p.read_text(encoding='utf-8'))['metadata'], f'{p.name} carries widget state'
        for c in source(p):
            assert c['execution_count'] is None
            assert not any(o.get('name') == 'stderr' or o['output_type'] == 'error' for o in c['outputs']), f'{p.name} shows an error'


def test_notebooks_stay_small():
    assert {p.name: p.stat().st_size for p in NOTEBOOKS if p.stat().st_size > 1_600_000} == {}


def test_readme_is_current():
    pytest.importorskip('nbdev', reason='nbdev writes the README')
    sys.path.insert(0, str(ROOT/'tests'))
    import readme
    assert (ROOT/'README.md').read_text(encoding='utf-8') == readme.render(), 'run make readme'


def test_stem_is_module():
    for p in NOTEBOOKS:
        exp = [m[1] for c in source(p) if (m := re.search(r'#\| default_exp (\S+)', ''.join(c['source'])))]
        if re.match(r'\d', p.stem) and exp: assert exp == [re.sub(r'^\d+\w?_', '', p.stem)], p.name
    assert {p.stem for p in PKG.glob('*.py')} - {'__init__', '_modidx'} == set(MODULES)


def imports(module):
    "Modules of ours that `module` imports, wherever in its text"
    for n in ast.walk(ast.parse((PKG/f'{module}.py').read_text(encoding='utf-8'))):
        if isinstance(n, ast.ImportFrom) and (n.level or (n.module or '').split('.')[0] == 'bear_classifier'):
            mod = (n.module or '').removeprefix('bear_classifier').strip('.')
            yield from [mod.split('.')[0]] if mod else [a.name for a in n.names if a.name in MODULES]
        if isinstance(n, ast.Import):
            yield from (a.name.split('.')[1] for a in n.names if a.name.startswith('bear_classifier.'))


@pytest.mark.parametrize('module', sorted(MODULES))
def test_imports_run_to_lower_numbers(module):
    assert [o for o in imports(module) if MODULES[o] > MODULES[module] or o == module] == []


def test_imports_have_no_circle():
    seen = {m: {o for o in imports(m) if o != m} for m in MODULES}
    done = set()
    while free := {m for m in seen if m not in done and seen[m] <= done}: done |= free
    assert done == set(seen), f'these import one another: {set(seen) - done}'


@pytest.mark.parametrize('module', [m for m in LIGHT if m in MODULES])
def test_light_side_is_light(module):
    code = f'import sys, bear_classifier.{module}; print(sorted({HEAVY!r} & set(sys.modules)))'
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.strip() == '[]'


def test_no_star_import_in_the_light_side():
    assert [m for m in LIGHT if m in MODULES and re.search(r'^from \S+ import \*', (PKG/f'{m}.py').read_text(encoding='utf-8'), re.M)] == []


def public(module):
    "Public functions, and the public methods and initialisers of public classes"
    mod = importlib.import_module(f'bear_classifier.{module}')
    for name in getattr(mod, '__all__', []):
        o = getattr(mod, name)
        if getattr(o, '__module__', None) != mod.__name__: continue
        if inspect.isfunction(o): yield name, o
        if inspect.isclass(o):
            for k,f in vars(o).items():
                f = getattr(f, '__func__', f)
                own = inspect.isfunction(f) and f.__module__ == mod.__name__ and f.__code__.co_filename == mod.__file__
                if own and not inherited(o, k) and (k == '__init__' or not k.startswith('_')): yield f'{name}.{k}', f


def inherited(cls, method):
    "A method whose meaning some other library has laid down, such as `forward`"
    return method != '__init__' and any(method in vars(b) for b in cls.__mro__[1:] if not b.__module__.startswith('bear_classifier'))


def returns_something(f):
    tree = ast.parse(textwrap.dedent(inspect.getsource(f)))
    todo = list(tree.body[0].body)
    while todo:
        n = todo.pop()
        if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)): continue
        if isinstance(n, ast.Return) and n.value is not None and not (isinstance(n.value, ast.Constant) and n.value.value is None): return True
        todo += list(ast.iter_child_nodes(n))
    return False


@pytest.mark.parametrize('module', sorted(set(MODULES) - {'cli'}))
def test_docments_are_complete(module):
    "Every public parameter and result is explained in place (commands explain theirs in --help)"
    docments = pytest.importorskip('fastcore.docments', reason='fastcore reads the docments').docments
    if module not in LIGHT: pytest.importorskip('fastai', reason='the training part is not installed')
    if module == 'api': pytest.importorskip('fastapi', reason='the api part is not installed')
    missing = []
    for name,f in public(module):
        if not inspect.getdoc(f) and not name.endswith('__init__'): missing.append(f'{name}: docstring')
        docs = docments(f, full=True, returns=True, args_kwargs=True)
        params = [p for p in inspect.signature(f).parameters if p not in ('self', 'cls')]
        missing += [f'{name}({p})' for p in params if not (docs.get(p) or {}).get('docment')]
        if params and returns_something(f) and not (docs.get('return') or {}).get('docment'): missing.append(f'{name} -> ?')
    assert missing == []


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    "A wheel built from the sdist"
    pytest.importorskip('build', reason='build makes the sdist and the wheel')
    copy, dist = tmp_path_factory.mktemp('sdist')/'project', tmp_path_factory.mktemp('dist')
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns('.git', '.venv', '*.egg-info', 'build', 'data', 'models', 'pictures'))
    subprocess.run([sys.executable, '-m', 'build', '--no-isolation', '--outdir', dist, copy], check=True, capture_output=True)
    return next(dist.glob('*.whl')), next(dist.glob('*.tar.gz'))


def test_sdist_carries_settings(wheel):
    import tarfile
    with tarfile.open(wheel[1]) as t: assert any(n.endswith('/settings.ini') for n in t.getnames())


def test_wheel_works_in_an_empty_environment(wheel, tmp_path):
    "Installed from the wheel alone; what it needs is borrowed from here, what it is comes from the wheel"
    env = tmp_path/'env'
    subprocess.run([sys.executable, '-m', 'venv', env], check=True)
    bin = env/('Scripts' if sys.platform == 'win32' else 'bin')
    subprocess.run([bin/'python', '-m', 'pip', 'install', '-q', '--no-index', '--no-deps', '--no-cache-dir', wheel[0]], check=True)
    site = next(env.glob('lib/python*/site-packages'), env/'Lib'/'site-packages')
    (site/'borrowed.pth').write_text(sysconfig.get_path('purelib') + '\n')
    code = ('import bear_classifier, importlib.resources as r; from bear_classifier import BearClassifier; clf = BearClassifier.practice();'
            'assert (r.files("bear_classifier.nbs")/"bear_app.ipynb").is_file(); print(bear_classifier.__file__, *clf.classes)')
    out = subprocess.run([bin/'python', '-c', code], capture_output=True, text=True, cwd=tmp_path)
    assert out.returncode == 0, out.stderr
    assert str(env) in out.stdout and 'grizzly' in out.stdout
    said = subprocess.run([bin/'bear-classifier', 'version'], capture_output=True, text=True, cwd=tmp_path)
    assert said.returncode == 0 and said.stdout.strip() == settings()['version']
    wrong = subprocess.run([bin/'bear-classifier', 'predict', 'nowhere', 'a.jpg'], capture_output=True, text=True, cwd=tmp_path)
    assert wrong.returncode == 1 and len(wrong.stderr.strip().splitlines()) == 1 and wrong.stderr.startswith('Error: no model')


def settings():
    cfg = configparser.ConfigParser(delimiters=['='], interpolation=None)
    cfg.read(ROOT/'settings.ini', encoding='utf-8')
    return cfg['DEFAULT']


def test_version_stands_in_one_place():
    import bear_classifier
    assert bear_classifier.__version__ == settings()['version']


def test_locks_have_versions_and_no_addresses():
    for name in ('app', 'dev'):
        lines = (ROOT/'requirements'/f'{name}.txt').read_text().splitlines()
        assert len(lines) > 50
        assert [o for o in lines if not re.match(r'^[A-Za-z0-9._-]+(\[[\w,-]+\])?==[\w.!+]+( ; .+)?$', o)] == []
    app = {o.split('==')[0] for o in (ROOT/'requirements'/'app.txt').read_text().splitlines()}
    assert not app & {'torch', 'fastai', 'pandas', 'matplotlib', 'scipy', 'scikit-learn'}


def test_make_lists_its_commands():
    if shutil.which('make') is None: pytest.skip('make is not installed')
    out = subprocess.run(['make', '-C', ROOT, '--no-print-directory'], capture_output=True, text=True, check=True).stdout
    for o in ('app', 'course', 'test', 'readme', 'lock', 'clean'): assert f'make {o} ' in out
