"""The chapter's recipe against the linear probe, on the same photographs, the same split, the same body.

Theirs: a DataBlock with random resized crops and augmentation, fastai's head, `fine_tune(4)`; fastai knows no normalisation for this
body and `vision_learner` loses its `cut`: it is given both. Ours: `bear_dls`, `bear_learner`, `probe` with an empty cache. Each in a fresh process; imports are not
counted. The error is on the images that neither has fitted (validation and test part); fine-tuning from the probe is timed beside it,
and since it chooses by the validation part, its error on the test part alone is given too. A ratio over 1 means ours is faster.
On a busy machine read `ratio.cpu`, the processor time of both.
"""
import argparse, json, os, platform, subprocess, sys, tempfile, time
from pathlib import Path

COMMON = '''
import json, os, sys, time, warnings; warnings.filterwarnings('ignore')
import numpy as np, torch
from fastai.vision.all import *
from fastai.vision.learner import add_head, create_body, default_split, num_features_model
from torchvision.models import mobilenet_v2
from bear_classifier.data import bear_dls, dataset, split
from bear_classifier.train import bear_learner, extract_features, fine_tune_from_probe, probe
data, size, epochs, pretrained, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == 'yes', int(sys.argv[5])
def cpu(): return sum(os.times()[:4])
set_seed(seed); start, busy = time.perf_counter(), cpu()
def errors(logits, df, vocab):
    wrong = np.asarray(logits).argmax(1) != df.label.map({c: i for i,c in enumerate(vocab)}).values
    return dict(error=float(wrong.mean()), error_test=float(wrong[(df.part == 'test').values].mean()), wrong=int(wrong.sum()), n=len(df))
def ours_on(learn, df):
    x = extract_features(learn, df.path)
    return errors(x @ learn.model.head.weight.detach().numpy().T + learn.model.head.bias.detach().numpy(), df, learn.dls.vocab)
'''
THEIRS = COMMON + '''
everything = split(dataset(data)); df = everything[everything.part != 'train']; start, busy = time.perf_counter(), cpu()
known = everything[everything.part != 'test'].reset_index(drop=True)
valid = np.flatnonzero(known.part == 'valid').tolist()
block = DataBlock(blocks=(ImageBlock, CategoryBlock), get_x=ColReader('path'), get_y=ColReader('label'), splitter=IndexSplitter(valid),
    item_tfms=RandomResizedCrop(size, min_scale=.5), batch_tfms=[*aug_transforms(), Normalize.from_stats(*imagenet_stats)])
dls = block.dataloaders(known, bs=min(64, len(known) - len(valid)))
body = create_body(mobilenet_v2(weights='DEFAULT' if pretrained else None), cut=-1)  # as in vision_learner, which loses its `cut`
learn = Learner(dls, add_head(body, num_features_model(body), dls.c), splitter=default_split, metrics=error_rate)
if pretrained: learn.freeze()
with learn.no_bar(), learn.no_logging(): learn.fine_tune(epochs)
seconds, busy = time.perf_counter() - start, cpu() - busy
with learn.no_bar(): logits = learn.get_preds(dl=dls.test_dl(df))[0]
print(json.dumps(dict(seconds=seconds, cpu_seconds=busy, **errors(logits, df, dls.vocab))))
'''
OURS = COMMON + '''
dls = bear_dls(data, size=size)
learn = probe(bear_learner(dls, 'mobilenet_v2', pretrained))
seconds, busy = time.perf_counter() - start, cpu() - busy
df = dls.bears.df; df = df[df.part != 'train']
print(json.dumps(dict(seconds=seconds, cpu_seconds=busy, cv_error=1 - learn.heldout.accuracy('train')[0], **ours_on(learn, df))))
'''
TUNED = COMMON + '''
from bear_classifier.train import _prepare_dls
learn = probe(bear_learner(_prepare_dls(data, size, 42, True), 'mobilenet_v2', pretrained))
fine_tune_from_probe(learn, epochs)
seconds, busy = time.perf_counter() - start, cpu() - busy
df = learn.dls.bears.df; df = df[df.part != 'train']
print(json.dumps(dict(seconds=seconds, cpu_seconds=busy, story=learn.story, **ours_on(learn, df))))
'''

def run(code, *args):
    "One side in a process of its own, with an empty cache"
    with tempfile.TemporaryDirectory() as cache:
        env, start = os.environ | dict(BEAR_CACHE=cache), time.perf_counter()
        r = subprocess.run([sys.executable, '-c', code, *map(str, args)], capture_output=True, text=True, env=env, cwd=cache)
    if r.returncode: sys.exit(r.stderr[-3000:])
    return json.loads(r.stdout.strip().splitlines()[-1]) | dict(process_seconds=time.perf_counter() - start)

def measure(data, size, epochs, pretrained, seed):
    args = data, size, epochs, 'yes' if pretrained else 'no', seed
    ours, theirs, tuned = run(OURS, *args), run(THEIRS, *args), run(TUNED, *args)
    ours |= {f'finetune_{k}': v for k,v in tuned.items()}
    ratio = dict(speed=theirs['seconds']/ours['seconds'], cpu=theirs['cpu_seconds']/ours['cpu_seconds'], process=theirs['process_seconds']/ours['process_seconds'], finetune=theirs['seconds']/tuned['seconds'])
    return ours, theirs, ratio

def rounded(o): return {k: round(v, 4) if isinstance(v, float) else v for k,v in o.items()}

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data', help='photographs, one folder a class; else BEAR_PHOTOS/bears, else drawn bears')
    p.add_argument('--size', type=int, default=224); p.add_argument('--epochs', type=int, default=4); p.add_argument('--seed', type=int, default=42)
    p.add_argument('--quick', action='store_true', help='drawn bears, one epoch, a body without weights, 64 pixels')
    a = p.parse_args()
    photos = Path(os.environ.get('BEAR_PHOTOS', '/nowhere'))/'bears'
    with tempfile.TemporaryDirectory() as tmp:
        data = a.data or (photos if photos.is_dir() and not a.quick else None)
        if data is None:
            from bear_classifier.practice import practice_dataset
            data = practice_dataset(Path(tmp)/'bears', n_per_class=16 if a.quick else 60, size=96 if a.quick else 256)
        ours, theirs, ratio = measure(Path(data).resolve(), 64 if a.quick else a.size, 1 if a.quick else a.epochs, not a.quick, a.seed)
    machine = dict(cpus=os.cpu_count(), python=platform.python_version(), system=platform.platform())
    print(json.dumps(dict(bench='train', ours=rounded(ours), theirs=rounded(theirs), ratio=rounded(ratio), machine=machine)))

if __name__ == '__main__': main()
