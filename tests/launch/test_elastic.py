"""A worker asks Horovod's driver for its new place."""

import http.server
import threading

import pytest

from launch import elastic


@pytest.fixture
def driver(monkeypatch):
    """Answers as Horovod's rendezvous does; `asked` holds the requests."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            server.asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(server.answer)

        def log_message(self, *arguments):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    server.asked = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HOROVOD_GLOO_RENDEZVOUS_ADDR", "127.0.0.1")
    monkeypatch.setenv("HOROVOD_GLOO_RENDEZVOUS_PORT", str(server.server_port))
    monkeypatch.setenv("HOROVOD_HOSTNAME", "node-3")
    monkeypatch.setenv("HOROVOD_LOCAL_RANK", "1")
    yield server
    server.shutdown()


def test_the_place_is_that_of_the_slot(driver):
    driver.answer = b"3,5,1,2,2,4"
    assert elastic.new_place() == {
        "HOROVOD_RANK": "3",
        "HOROVOD_SIZE": "5",
        "HOROVOD_LOCAL_RANK": "1",
        "HOROVOD_LOCAL_SIZE": "2",
        "HOROVOD_CROSS_RANK": "2",
        "HOROVOD_CROSS_SIZE": "4",
    }
    assert driver.asked == ["/rank_and_size/node-3:1"]


@pytest.mark.parametrize("answer", [b"-1,-1,-1,-1,-1,-1", b"", b"1,2", b"<html>"])
def test_an_answer_without_a_place_gives_none(driver, answer):
    driver.answer = answer
    assert elastic.new_place() is None


def test_a_job_that_has_ended_has_no_place(driver, monkeypatch):
    driver.shutdown()
    driver.server_close()
    assert elastic.new_place() is None


def test_a_process_that_is_not_elastic_keeps_its_options(monkeypatch):
    monkeypatch.delenv("HOROVOD_ELASTIC", raising=False)
    assert elastic.join_those_that_resume(False, None) == (False, None)
