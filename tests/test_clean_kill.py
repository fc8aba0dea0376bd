"A killed `apply`: run again, the end state is that of an unbroken run"
import os, random, shutil, signal, subprocess, sys, time
import pytest
if sys.platform == 'win32': pytest.skip('SIGKILL is not known there', allow_module_level=True)
from bear_classifier.journal import Journal, apply, plan, restore
from bear_classifier.core import sha256_of
from test_clean import tree

KILLS = 20 if os.environ.get('BEAR_LONG') == '1' else 3
CODE = 'import sys; from bear_classifier.journal import apply; print("go", flush=True); apply(sys.argv[1])'

@pytest.fixture(scope='module')
def decided(tmp_path_factory):
    "300 decisions over 330 images, some of the same content"
    d, rng, todo = tmp_path_factory.mktemp('kill')/'set', random.Random(0), []
    for i in range(330):
        data = f'image {i % 310}'.encode()*50
        p = d/('black', 'grizzly', 'teddy')[i % 3]/f'{sha256_of(data)[:16]}.jpg'
        p.parent.mkdir(parents=True, exist_ok=True); p.write_bytes(data); todo.append((p.relative_to(d).as_posix(), sha256_of(data)))
    j = Journal(d/'review.jsonl')
    for image in dict(todo[:300]).items():
        do = rng.choice(['drop', 'label', 'label'])
        j.decide([image], do, rng.choice(['black', 'grizzly', 'teddy', 'polar']) if do == 'label' else '')
    return d

def size(d): return (d/'review.jsonl').stat().st_size

def kill_at(d, grown):
    "Start an apply and kill it when its journal has grown to so many bytes"
    p = subprocess.Popen([sys.executable, '-c', CODE, str(d)], stdout=subprocess.PIPE, text=True)
    p.stdout.readline()
    while size(d) < grown and p.poll() is None: time.sleep(.0005)
    p.send_signal(signal.SIGKILL); p.wait(); p.stdout.close()

def test_killed_apply_ends_as_an_unbroken_one(decided, tmp_path):
    whole = tmp_path/'whole'; shutil.copytree(decided, whole); before = tree(whole)
    apply(whole); want, first, last = tree(whole), size(decided), size(whole)
    assert sorted(want.values()) == sorted(before.values()) and plan(whole) == []
    rng, midway = random.Random(1), 0
    for k in range(KILLS):
        d = tmp_path/f'kill{k}'; shutil.copytree(decided, d)
        at = rng.uniform(first, last)
        kill_at(d, at)
        if k % 2: kill_at(d, rng.uniform(size(d), last))  # and once more, while it resumes
        midway += tree(d) not in (before, want)
        assert set(tree(d).values()) == set(before.values()), 'an image was lost'
        apply(d)
        assert tree(d) == want and plan(d) == []
        restore(d); assert tree(d) == before
        shutil.rmtree(d)
    print(f'{midway} of {KILLS} kills came in the middle')
    assert midway > KILLS//2, 'too few kills came in the middle of an apply'

@pytest.mark.parametrize('half', ['noted', 'linked', 'moved'])
def test_each_moment_of_a_move(decided, tmp_path, half):
    "The three states a kill can leave a single move in"
    whole, d = tmp_path/'whole', tmp_path/'half'
    shutil.copytree(decided, whole); shutil.copytree(decided, d); apply(whole)
    j, step = Journal(d/'review.jsonl'), plan(d).moves[0]
    (d/step.to).parent.mkdir(parents=True, exist_ok=True)
    j._note('move', **{'from': step.path, 'to': step.to}, sha256=step.sha256)
    if half == 'linked': os.link(d/step.path, d/step.to)
    if half == 'moved': os.rename(d/step.path, d/step.to)
    assert len(plan(d)) > 0
    apply(d); assert tree(d) == tree(whole)
