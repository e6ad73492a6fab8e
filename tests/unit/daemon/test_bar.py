"""What a long command says while it works."""

import pytest

from anomalyd.daemon.commands.bar import Bar
from anomalyd.pipeline.train.fit import Progress


def test_in_a_pipe_a_line_for_each_tenth_with_loss_rate_and_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    with Bar() as bar:
        bar.show_training(Progress("brain masks", 0, 50))
        for done in range(30_000, 42_001, 50):
            bar.show_training(Progress("training", done, 60_000, 0.09876, 4.0))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "brain masks: 0 of 50"
    assert lines[1] == "training, loss 0.0988, 4.00 steps/s, 2:05 h left: 30000 of 60000"
    assert [line.rpartition(": ")[2] for line in lines[1:]] == [f"{k} of 60000" for k in (30000, 36000, 42000)]
