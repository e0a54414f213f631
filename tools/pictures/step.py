"""The data flow of a step: ten stations, from a batch's losses to the next epoch's batches, by process."""

from __future__ import annotations

from pictures.svg import Picture

__all__ = ["draw"]


def draw() -> str:
    """The picture as SVG."""
    picture = Picture(
        980,
        612,
        "The data flow of a step",
        "A loop of ten stations. In the training process: 1 loader.update. In its pusher thread: 2 scores are batched "
        "and sent. In the score server: 3 scores enter the table, 4 every rank ends the epoch, 5 the next plan is "
        "drawn. Then: 6 each node fetches the plan. In DataLoader workers: 7 positions become sample indices, 8 "
        "samples are read, 9 webdataset's stages run, tied to their samples. Back in the training process: 10 the "
        "batch is returned, and its ticket is kept.",
    )
    _training(picture)
    _workers(picture)
    _server(picture)
    _arrows(picture)
    return picture.text()


def _training(picture: Picture) -> None:
    picture.box(24, 24, 572, 258, fill="panel", stroke="training", radius=10)
    picture.words(42, 50, "Training process", color="training", bold=True, size=15)
    picture.words(578, 50, "one per rank", color="muted", anchor="end", size=12.5)
    _station(picture, 42, 196, 222, "10", "training", "InfoBatchLoader", ["returns the payload,", "keeps the ticket"])
    picture.box(42, 120, 222, 44, fill="card", stroke="rule")
    picture.words(153, 147, "model(batch) → losses (B,)", anchor="middle", mono=True, size=12)
    _station(picture, 42, 62, 222, "1", "training", "update(losses)", [], height=40)
    picture.box(318, 66, 260, 198, fill="paper", stroke="pusher", radius=8)
    picture.words(334, 90, "Pusher thread", color="pusher", bold=True, size=14)
    _station(
        picture,
        334,
        104,
        228,
        "2",
        "pusher",
        "ScorePusher",
        ["takes losses off the queue,", "keeps a sample's newest score,", "sends; repeats after an outage"],
        height=92,
    )
    picture.lines(
        334, 220, ["update returns in microseconds;", "no step waits for the server"], color="muted", size=12.5
    )


def _workers(picture: Picture) -> None:
    picture.box(24, 330, 572, 258, fill="panel", stroke="workers", radius=10)
    picture.words(84, 356, "DataLoader workers", color="workers", bold=True, size=15)
    picture.words(578, 356, "num_workers processes; none has a connection", color="muted", anchor="end", size=12.5)
    _station(
        picture,
        42,
        372,
        168,
        "9",
        "workers",
        "TiedChain",
        ["webdataset's stages;", "an output belongs", "to the sample that", "was read last"],
        height=112,
    )
    _station(
        picture,
        226,
        372,
        168,
        "8",
        "workers",
        "ShardReader",
        ["one pread by", "sample; skipped", "ones cost nothing"],
        height=112,
    )
    _station(
        picture, 410, 372, 168, "7", "workers", "PlanOrder", ["position in the", "epoch → sample", "index"], height=112
    )
    for number in range(6):
        picture.box(250 + number * 20, 528, 14, 26, fill="workers", radius=2)
    picture.words(310, 574, "shards (tar)", color="workers", anchor="middle", size=12.5, bold=True)
    picture.arrow((310, 524), (310, 488), stroke="workers")
    picture.arrow((410, 428), (398, 428), stroke="workers")
    picture.arrow((226, 428), (214, 428), stroke="workers")


def _server(picture: Picture) -> None:
    picture.box(690, 24, 266, 564, fill="panel", stroke="server", radius=10)
    picture.words(708, 50, "Score server", color="server", bold=True, size=15)
    picture.words(938, 50, "one for all nodes", color="muted", anchor="end", size=12.5)
    _station(
        picture,
        706,
        96,
        234,
        "3",
        "server",
        "ScoreFeed.push",
        ["ScoreTable.update: one score per", "sample; a later epoch wins"],
        height=76,
    )
    _station(
        picture,
        706,
        240,
        234,
        "4",
        "server",
        "EndEpoch",
        ["the barrier: every rank has", "pushed its last scores"],
        height=76,
    )
    _station(
        picture,
        706,
        396,
        234,
        "5",
        "server",
        "draw_plan",
        ["threshold = mean of the scores,", "below it: keep with p = 1 − r,", "weight 1/p", "drawn once, then frozen"],
        height=124,
    )
    picture.arrow((823, 172), (823, 236), stroke="server")
    picture.arrow((823, 316), (823, 392), stroke="server")


def _arrows(picture: Picture) -> None:
    picture.arrow((264, 82), (290, 82), (290, 150), (330, 150), stroke="pusher")
    picture.arrow((153, 120), (153, 106), stroke="training")
    picture.arrow((153, 196), (153, 168), stroke="training")
    picture.arrow((562, 134), (702, 134), stroke="pusher")
    picture.words(643, 125, "PushScores", anchor="middle", color="pusher", mono=True, size=11.5)
    picture.arrow((562, 178), (662, 178), (662, 278), (702, 278), stroke="pusher")
    picture.words(602, 300, "EndEpoch", color="pusher", mono=True, size=11.5)
    picture.arrow((706, 462), (643, 462), (643, 512), (494, 512), (494, 488), stroke="server")
    picture.number(643, 488, "6", "server")
    picture.lines(400, 534, ["GetEpochPlan, once by node:", "a file that the workers map"], color="server", size=12.5)
    picture.arrow((60, 372), (60, 276), stroke="workers")
    picture.words(74, 311, "batches; index and weight of each row beside them", color="workers", size=12.5)


def _station(
    picture: Picture,
    x: float,
    y: float,
    width: float,
    number: str,
    color: str,
    name: str,
    texts: list[str],
    *,
    height: float = 76,
) -> None:
    picture.box(x, y, width, height, fill="card", stroke="rule")
    picture.number(x + 20, y + 20, number, color)
    picture.words(x + 40, y + 24.5, name, mono=True, size=12.5, bold=True)
    picture.lines(x + 14, y + 49, texts, color="muted", size=12.5)
