"""`learn.predict` on an exported fastai learner against `BearClassifier.predict`, same body, each in a fresh process.

Theirs: the chapter's learner on mobilenet_v2, `learn.export()`, `load_learner`, `learn.predict`, and `get_preds` over many. Ours: the bundle of the
same body, as each library sets its threads by itself. Weights are random: they change no time. `load` counts imports and loading; `memory` is the resident set after a few predictions.
`ours.over_limit` is one prediction over decoding plus the bare forward pass. A ratio over 1 means ours is faster or smaller.
"""
import argparse, json, os, platform, statistics, subprocess, sys, tempfile
from pathlib import Path

COMMON = '''
import json, os, statistics, sys, time
a = json.loads(sys.argv[1])
start = time.perf_counter()
def median(fn, n, warm=2):
    took = []
    for i in range(n + warm):
        t = time.perf_counter(); fn(); took.append(time.perf_counter() - t)
    return statistics.median(took[warm:])
def resident():
    import psutil
    return psutil.Process().memory_info().rss / 1e6
'''
THEIRS = COMMON + '''
import warnings; warnings.filterwarnings('ignore')
from fastai.vision.all import *
learn = load_learner(a['learner'])
out = dict(load=time.perf_counter() - start)
with learn.no_bar(), learn.no_logging():
    out['small'] = median(lambda: learn.predict(a['small']), a['n'])
    out['memory'] = resident()
    out['large'] = median(lambda: learn.predict(a['large']), a['n_large'], 1)
    t = time.perf_counter()
    learn.get_preds(dl=learn.dls.test_dl([Path(o) for o in a['many']]))
    out['batch'] = time.perf_counter() - t
print(json.dumps(out))
'''
OURS = COMMON + '''
from bear_classifier.infer import BearClassifier
clf = BearClassifier.load(a['bundle'])
out = dict(load=time.perf_counter() - start)
out['small'] = median(lambda: clf.predict(a['small']), a['n'])
out['memory'] = resident()
out['large'] = median(lambda: clf.predict(a['large']), a['n_large'], 1)
t = time.perf_counter()
n = sum(p.ok for p in clf.predict_many(a['many']))
out['batch'] = time.perf_counter() - t
assert n == len(a['many']), 'a file could not be opened'
from bear_classifier.core import load_square
square = load_square(a['small'], clf.size)[None]
def bare():
    load_square(a['small'], clf.size); clf.bundle.run(square)
over = []
for i in range(a['n']):
    t0 = time.perf_counter(); bare(); t1 = time.perf_counter(); clf.predict(a['small']); t2 = time.perf_counter()
    over.append((t2 - t1) / (t1 - t0))
out['over_limit'] = statistics.median(over)
print(json.dumps(out))
'''
MAKE = '''
import sys, warnings; warnings.filterwarnings('ignore')
from pathlib import Path
from fastai.vision.all import *
from fastai.vision.learner import add_head, create_body, default_split, num_features_model
from torchvision.models import mobilenet_v2
from bear_classifier.data import bear_dls
from bear_classifier.export import export_bundle
from bear_classifier.train import bear_learner, probe
data, out = Path(sys.argv[1]), Path(sys.argv[2])
set_seed(42)
dls = ImageDataLoaders.from_folder(data, valid_pct=.2, item_tfms=Resize(224), bs=16)
body = create_body(mobilenet_v2(), cut=-1)  # as in vision_learner, which loses its `cut`
Learner(dls, add_head(body, num_features_model(body), dls.c), splitter=default_split, metrics=error_rate).export(out/'learner.pkl')
export_bundle(probe(bear_learner(bear_dls(data), 'mobilenet_v2', pretrained=False)), out/'bundle')
'''

def run(code, *args):
    "One side in a process of its own"
    env = {k: v for k,v in os.environ.items() if k != 'PYTHONDONTWRITEBYTECODE'} | dict(BEAR_CACHE=tempfile.mkdtemp())  # compiled once, as for a user
    o = subprocess.run([sys.executable, '-W', 'ignore', '-c', code, *args], capture_output=True, text=True, env=env)
    if o.returncode: sys.exit(f'a side failed:\n{o.stderr[-2000:]}')
    return o.stdout.strip().splitlines()

def large_jpeg(path, megapixels):
    "A JPEG as a camera gives: structure at every scale, and grain"
    import numpy as np
    from PIL import Image
    rng, w = np.random.default_rng(0), int((megapixels*1e6*1.5)**.5)
    h = int(w/1.5)
    coarse = Image.fromarray(rng.integers(0, 255, (24, 36, 3), dtype=np.uint8)).resize((w, h), Image.Resampling.BICUBIC)
    grain = np.asarray(coarse, np.int16) + rng.normal(0, 9, (h, w, 1)).astype(np.int16)
    Image.fromarray(grain.clip(0, 255).astype(np.uint8)).save(path, 'JPEG', quality=90)
    return str(path)

def photographs(tmp, n):
    "Real photographs where there are some, drawn ones otherwise"
    from bear_classifier.core import image_files
    from bear_classifier.practice import practice_dataset
    real = os.environ.get('BEAR_PHOTOS')
    files = image_files(Path(real)/'bears') if real else image_files(practice_dataset(tmp/'many', n_per_class=-(-n//3), size=384))
    return [str(o) for o in files[:n]], 'photographs' if real else 'drawings'

def inputs(tmp, quick):
    from bear_classifier.practice import draw_bear, practice_dataset
    draw_bear('grizzly', 3, 512).save(tmp/'small.jpg', quality=90)
    run(MAKE, str(practice_dataset(tmp/'bears', n_per_class=12, size=128)), str(tmp))
    many, kind = photographs(tmp, 12 if quick else 400)
    return dict(learner=str(tmp/'learner.pkl'), bundle=str(tmp/'bundle'), small=str(tmp/'small.jpg'), large=large_jpeg(tmp/'large.jpg', 4 if quick else 16),
                many=many, n=5 if quick else 60, n_large=2 if quick else 9), kind

def best(rounds):
    "The median of each figure over the rounds"
    return {k: statistics.median(r[k] for r in rounds) for k in rounds[0]}

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--quick', action='store_true', help='a small version, in seconds')
    p.add_argument('--rounds', type=int, help='fresh processes a side (3, or 1 with --quick)')
    args = p.parse_args()
    rounds = args.rounds or (1 if args.quick else 3)
    with tempfile.TemporaryDirectory() as d:
        a, kind = inputs(Path(d), args.quick)
        sides = {'theirs': [], 'ours': []}
        for _ in range(rounds):
            for name,code in (('theirs', THEIRS), ('ours', OURS)): sides[name].append(json.loads(run(code, json.dumps(a))[-1]))
    theirs, ours = best(sides['theirs']), best(sides['ours'])
    print(json.dumps(dict(bench='predict', ours=ours, theirs=theirs, ratio={k: theirs[k]/ours[k] for k in theirs}, n=len(a['many']), images=kind,
                          machine=dict(cpus=os.cpu_count(), platform=platform.platform(), python=platform.python_version()))))

if __name__ == '__main__': main()
