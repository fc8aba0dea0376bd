"What several test files ask for by name"
import pytest

@pytest.fixture(scope='module')
def cache(tmp_path_factory):
    "A cache of one file's tests alone, and one thread, for others may be at work"
    import torch
    threads = torch.get_num_threads(); torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as m:
        m.setenv('BEAR_CACHE', str(tmp_path_factory.mktemp('cache')))
        yield
    torch.set_num_threads(threads)

@pytest.fixture(scope='module')
def probed(cache):
    "Solve a small probe on a folder or a table, always from the same weights"
    def probed(source):
        import torch
        from bear_classifier.data import bear_dls
        from bear_classifier.train import bear_learner, probe
        torch.manual_seed(0)
        return probe(bear_learner(bear_dls(source, size=48, bs=8), 'bearnet_small'))
    return probed
