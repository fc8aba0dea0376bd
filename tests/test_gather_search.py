"""The real `ddgs` client, end to end, against a loopback double of the search service: a proxy with a test certificate."""
import os, time
import pytest
pytest.importorskip('ddgs'); pytest.importorskip('cryptography')
from bear_classifier.core import DataError
from bear_classifier.fetch import Patience, SearchError, engines, search_images
from webdouble import Search

def findable(n=60): return lambda query: [dict(url=f'https://host{i%7}.example/{i}.jpg?w=1024&n={i}', page=f'https://host{i%7}.example/page/{i}', title=f'{query} {i}') for i in range(n)]

@pytest.fixture
def service(tmp_path):
    with Search(findable(), tmp_path, page=10, hang=30.) as s: yield s

def box(service, tmp_path, **kw): return dict(**service.settings, cache=tmp_path/'cache', pause=0, timeout=5) | kw

@pytest.mark.parametrize('engine', ['duckduckgo', 'bing'])
def test_pages_until_there_are_enough(service, tmp_path, engine):
    hits = search_images('grizzly bear', 25, engines=[engine], **box(service, tmp_path))
    assert [o['url'] for o in hits] == [o['url'] for o in findable()('')[:25]], 'in order, once each, query strings kept'
    assert {o['engine'] for o in hits} == {engine} and hits[3]['page'] == 'https://host3.example/page/3' and hits[3]['query'] == 'grizzly bear' and hits[3]['title'].endswith('3')
    assert [o[2] for o in service.asked] == [0, 10, 20]

def test_a_cache_that_cannot_be_written_costs_no_answer(service, tmp_path):
    (tmp_path/'file').write_text('')
    assert len(search_images('grizzly bear', 5, engines=['bing'], **box(service, tmp_path, cache=tmp_path/'file'/'cache'))) == 5

def test_all_engines_take_part(service, tmp_path):
    assert engines() == ['bing', 'duckduckgo']
    assert len(search_images('grizzly bear', 60, **box(service, tmp_path))) == 60
    assert {o[0] for o in service.asked} == {'duckduckgo.com', 'www.bing.com'}

def test_where_there_are_no_more_it_gives_what_there_is(service, tmp_path):
    assert len(search_images('grizzly bear', 500, **box(service, tmp_path))) == 60

def test_an_empty_page_is_an_answer(service, tmp_path):
    service.then = 'empty'
    assert search_images('snark', 10, **box(service, tmp_path)) == []
    assert len(service.asked) == 2, 'once for each engine, and no waiting'

@pytest.mark.parametrize('mood', ['202', '403', '429', '500', 'malformed', 'cut'])
def test_recovers(service, tmp_path, mood):
    service.moods = [mood, mood]
    assert len(search_images('grizzly bear', 15, patience=60, **box(service, tmp_path))) == 15
    assert [o[3] for o in service.asked[:3]] == [mood, mood, 'ok']

@pytest.mark.parametrize('mood,said', [('202', '202'), ('403', '403'), ('429', '429'), ('malformed', 'Expecting value'), ('cut', 'sending request')])
def test_gives_up_with_words(service, tmp_path, mood, said):
    "Two pages come, then nothing more: the error has what was found, what was tried and the ways on"
    service.moods, service.then = ['ok', 'ok'], mood
    with pytest.raises(SearchError) as e: search_images('grizzly bear', 50, patience=1.5, engines=['duckduckgo'], **box(service, tmp_path))
    assert len(e.value.hits) == 20 and isinstance(e.value, DataError)
    for o in ('20 of 50', 'duckduckgo, page 3', said, 'Ways on', 'engines=', 'urls=', 'from_=', 'practice_dataset'): assert o in str(e.value), o
    assert 4 <= len(service.asked) <= 10, 'it asks again, and does not hammer'

def test_a_service_that_hangs_costs_its_timeout(service, tmp_path):
    service.moods = ['hang']
    assert len(search_images('grizzly bear', 10, **box(service, tmp_path, timeout=1))) == 10
    assert service.asked[0][3] == 'hang'

def test_one_engine_down_the_other_carries_on(service, tmp_path):
    real = service._answer
    service._answer = lambda sock, host, target: sock.sendall(b'HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n') if host == 'www.bing.com' else real(sock, host, target)
    hits = search_images('grizzly bear', 30, **box(service, tmp_path))
    assert len(hits) == 30 and {o['engine'] for o in hits} == {'duckduckgo'}

def test_remembers_for_a_day(service, tmp_path):
    settings = box(service, tmp_path)
    first = search_images('grizzly bear', 20, engines=['bing'], **settings)
    assert len(service.asked) == 2
    assert search_images('grizzly bear', 20, engines=['bing'], **settings) == first and len(service.asked) == 2
    assert len(search_images('grizzly bear', 30, engines=['bing'], **settings)) == 30 and len(service.asked) == 3, 'only the new page is asked for'
    for p in (tmp_path/'cache').iterdir(): os.utime(p, (time.time() - 90000,)*2)
    search_images('grizzly bear', 20, engines=['bing'], **settings)
    assert len(service.asked) == 5, 'yesterday is forgotten'
    next((tmp_path/'cache').iterdir()).write_text('{half a')
    assert len(search_images('grizzly bear', 20, engines=['bing'], **settings)) == 20
    search_images('grizzly bear', 20, engines=['bing'], **settings | dict(cache=False))
    assert len(service.asked) >= 7

def test_several_searches_share_one_patience(service, tmp_path):
    service.then = '429'
    shared = Patience(1.5)
    for q in ('grizzly bear', 'black bear', 'teddy bear'):
        with pytest.raises(SearchError): search_images(q, 10, patience=shared, **box(service, tmp_path))
    asked = {q: sum(o[1] == q for o in service.asked) for q in ('grizzly bear', 'teddy bear')}
    assert asked['teddy bear'] <= 2 < asked['grizzly bear'] + 1

def test_wrong_use_is_told(service, tmp_path):
    with pytest.raises(DataError, match='bing, duckduckgo'): search_images('bear', 5, engines=['altavista'], **box(service, tmp_path))

def test_nothing_is_reachable(tmp_path):
    with pytest.raises(SearchError, match='0 of 5'): search_images('bear', 5, proxy='http://127.0.0.1:9', patience=.5, cache=tmp_path)
