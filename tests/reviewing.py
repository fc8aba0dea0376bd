"Helpers of the reviewer's tests: a model of plain colours, a page served by Voila, and a process that applies decisions"
import os, subprocess, sys, time
from contextlib import contextmanager
from pathlib import Path
import nbformat, numpy as np
from serving import free_port
from bear_classifier.core import Prediction, prepare, softmax

class Colours:
    "A classifier without weights, for speed: its features are a picture of 8 by 8 pixels"
    classes = ('black', 'grizzly', 'teddy')
    def predict(self, path):
        f = prepare(path, 8).astype(np.float32).ravel()/255
        p = softmax([[f[0::3].mean()*3, f[1::3].mean()*4, f[2::3].mean()*5]])[0]
        return Prediction('unsure', self.classes[int(p.argmax())], float(p.max()), dict(zip(self.classes, p.tolist())), .1, f.reshape(8, 8, 3)[..., 0], f, str(path))
    def predict_many(self, paths): return (self.predict(p) for p in paths)

CELL = '''import sys; sys.path.insert(0, {tests!r})
import pandas as pd
from bear_classifier.review import Reviewer
from reviewing import Colours
ranking = pd.read_pickle({ranking!r}) if {ranking!r} else None
Reviewer({root!r}, Colours(), ranking=ranking, who='ana')'''

@contextmanager
def served(tmp, code, *words, **env):
    "Run a server of Jupyter's in `tmp`, with `review.ipynb` of one cell; gives its address"
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    nb.metadata['kernelspec'] = dict(name='python3', display_name='python3', language='python')
    nbformat.write(nb, tmp/'review.ipynb')
    port, log = free_port(), open(tmp/'voila.log', 'w')
    proc = subprocess.Popen([sys.executable, '-m', *words, '--no-browser', f'--port={port}'], cwd=tmp, stdout=log, stderr=log, env=os.environ | env)
    try: yield f'http://127.0.0.1:{until_up(port, proc, tmp)}/'
    finally: proc.terminate(); proc.wait(20); log.close()

@contextmanager
def page(tmp, root, ranking=None):
    "Serve a `Reviewer` of `root` with Voila; gives its address"
    tmp = Path(tmp); tmp.mkdir(exist_ok=True)
    file = '' if ranking is None else str(tmp/'ranking.pkl')
    if file: ranking.to_pickle(file)
    code = CELL.format(tests=str(Path(__file__).parent), ranking=file, root=str(root))
    with served(tmp, code, 'voila', 'review.ipynb', '--Voila.ip=127.0.0.1') as url: yield url

@contextmanager
def lab(tmp, code):
    "JupyterLab in `tmp`, with a notebook of one cell; gives the notebook's address"
    words = ['jupyter', 'lab', '--allow-root', '--IdentityProvider.token=', '--LabApp.news_url=None']
    with served(tmp, code, *words, JUPYTER_CONFIG_DIR=str(tmp/'config')) as url: yield f'{url}lab/tree/review.ipynb'

def until_up(port, proc, tmp):
    for _ in range(600):
        if proc.poll() is not None: raise RuntimeError((tmp/'voila.log').read_text()[-2000:])
        try:
            import socket; socket.create_connection(('127.0.0.1', port), 1).close(); return port
        except OSError: time.sleep(.1)
    raise RuntimeError('Voila did not start')

def tree(root):
    "Everything a person would miss: path → content, without journal and lock"
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(Path(root).rglob('*')) if p.is_file() and not p.name.startswith(('.review', 'review.jsonl'))}
