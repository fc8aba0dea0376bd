"""`learn.predict` on an exported fastai learner against `BearClassifier.predict`, same body, each in a fresh process.

Theirs: the chapter's learner (random resized crops, augmentation, normalisation) on mobilenet_v2, `learn.export()`, `load_learner`, `learn.predict`, and `get_preds` over many.
Ours: the bundle of the same body, as each library sets its threads by itself. Weights are random: they change no time. `load` counts imports and loading; `memory` is the
resident set after some predictions. `small` is a drawn JPEG of 512 by 512 pixels, `photo` a few photographs of that width where BEAR_PHOTOS has some: less square ones, of which
neither side may skip a pixel. `large` is a JPEG of 16 megapixels: photographs of 20 and more, made smaller, where BEAR_PHOTOS has some, a drawing with a camera's
grain otherwise. `grain` is one with three times that: nearly all of our time goes into bits that no decoder can skip. `ours.over_limit` is one prediction over decoding plus the bare forward pass.
A ratio over 1 means ours is faster or smaller.
"""
import argparse, json, os, platform, statistics, subprocess, sys, tempfile
from pathlib import Path

COMMON = '''
import json, os, statistics, sys, time
a = json.loads(sys.argv[1])
start = time.perf_counter()
def each(fn, kind, n, warm=2):
    "Median seconds of an image: n times each, one after the other"
    took = []
    for i in range(n + warm):
        for o in a[kind]: t = time.perf_counter(); fn(o); took.append(time.perf_counter() - t)
    return statistics.median(took[warm*len(a[kind]):])
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
    for k in ('small', 'photo'): out[k] = each(learn.predict, k, a['n'])
    out['memory'] = resident()
    for k in ('large', 'grain'): out[k] = each(learn.predict, k, a['n_large'])
    t = time.perf_counter()
    learn.get_preds(dl=learn.dls.test_dl([Path(o) for o in a['many']]))
    out['batch'] = time.perf_counter() - t
print(json.dumps(out))
'''
OURS = COMMON + '''
from bear_classifier.infer import BearClassifier
clf = BearClassifier.load(a['bundle'])
out = dict(load=time.perf_counter() - start)
for k in ('small', 'photo'): out[k] = each(clf.predict, k, a['n'])
out['memory'] = resident()
for k in ('large', 'grain'): out[k] = each(clf.predict, k, a['n_large'])
t = time.perf_counter()
n = sum(p.ok for p in clf.predict_many(a['many']))
out['batch'] = time.perf_counter() - t
assert n == len(a['many']), 'a file could not be opened'
from bear_classifier.core import load_square
over = []
for f in a['small']*a['n']:
    t0 = time.perf_counter(); clf.bundle.run(load_square(f, clf.size)[None]); t1 = time.perf_counter(); clf.predict(f); t2 = time.perf_counter()
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
dls = ImageDataLoaders.from_folder(data, valid_pct=.2, bs=16, item_tfms=RandomResizedCrop(224, min_scale=.5), batch_tfms=[*aug_transforms(), Normalize.from_stats(*imagenet_stats)])
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

def large_jpegs(tmp, megapixels):
    "Photographs that have at least so many megapixels, made smaller and saved anew"
    from PIL import Image
    from bear_classifier.core import image_files
    real, out = os.environ.get('BEAR_PHOTOS'), []
    for f in image_files(Path(real)/'awkward') if real else []:
        with Image.open(f) as im:
            share = (megapixels*1e6/(im.width*im.height))**.5
            if im.format != 'JPEG' or share > 1: continue
            out.append(str(tmp/f'large{len(out)}.jpg'))
            im.convert('RGB').resize((int(im.width*share), int(im.height*share)), Image.Resampling.LANCZOS).save(out[-1], quality=90)
    return out

def small_jpeg(path):
    "A drawing, 512 pixels wide and high"
    from bear_classifier.practice import draw_bear
    draw_bear('grizzly', 3, 512).save(path, quality=90)
    return [str(path)]

def grainy_jpeg(path, megapixels, sigma):
    "A drawn bear under noise in every pixel: at a sigma of 3 it has 1.5 bits a pixel, where photographs of this size have 1.1 to 2.3; at 9 it has 2.9"
    import numpy as np
    from PIL import Image
    from bear_classifier.practice import draw_bear
    w = int((megapixels*1e6*1.5)**.5); h = int(w/1.5)
    drawn = np.asarray(draw_bear('grizzly', 3, 1024).resize((w, h), Image.Resampling.BICUBIC), np.int16)
    grain = np.rint(np.random.default_rng(0).normal(0, sigma, (h, w, 1))).astype(np.int16)
    Image.fromarray((drawn + grain).clip(0, 255).astype(np.uint8)).save(path, 'JPEG', quality=90)
    return [str(path)]

def photographs(tmp, n):
    "Real photographs where there are some, drawn ones otherwise"
    from bear_classifier.core import image_files
    from bear_classifier.practice import practice_dataset
    real = os.environ.get('BEAR_PHOTOS')
    files = image_files(Path(real)/'bears') if real else image_files(practice_dataset(tmp/'many', n_per_class=-(-n//3), size=384))
    return [str(o) for o in files[:n]], 'photographs' if real else 'drawings'

def inputs(tmp, quick):
    from bear_classifier.practice import practice_dataset
    run(MAKE, str(practice_dataset(tmp/'bears', n_per_class=12 if quick else 110, size=128)), str(tmp))
    many, kind = photographs(tmp, 12 if quick else 400)
    mp = 4 if quick else 16
    small, large = small_jpeg(tmp/'small.jpg'), large_jpegs(tmp, mp) or grainy_jpeg(tmp/'large.jpg', mp, 3)
    photo = [o for o in many if o.endswith('.jpg')][::max(1, len(many)//4)][:4] if kind == 'photographs' else small
    return dict(learner=str(tmp/'learner.pkl'), bundle=str(tmp/'bundle'), small=small, photo=photo, large=large, grain=grainy_jpeg(tmp/'grain.jpg', mp, 9),
                many=many, n=5 if quick else 30, n_large=2 if quick else 9), kind

def best(rounds):
    "The median of each figure over the rounds"
    return {k: statistics.median(r[k] for r in rounds) for k in rounds[0]}

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--quick', action='store_true', help='a small version, in seconds')
    p.add_argument('--rounds', type=int, help='fresh processes a side (5, or 1 with --quick)')
    args = p.parse_args()
    rounds = args.rounds or (1 if args.quick else 5)
    with tempfile.TemporaryDirectory() as d:
        a, kind = inputs(Path(d), args.quick)
        sides = {'theirs': [], 'ours': []}
        for _ in range(rounds):
            for name,code in (('theirs', THEIRS), ('ours', OURS)): sides[name].append(json.loads(run(code, json.dumps(a))[-1]))
    ratios = [{k: t[k]/o[k] for k in t} for t,o in zip(sides['theirs'], sides['ours'])]  # of neighbours in time: a machine has moods
    print(json.dumps(dict(bench='predict', ours=best(sides['ours']), theirs=best(sides['theirs']), ratio=best(ratios), rounds=rounds, n=len(a['many']), images=kind,
                          machine=dict(cpus=os.cpu_count(), platform=platform.platform(), python=platform.python_version()))))

if __name__ == '__main__': main()
