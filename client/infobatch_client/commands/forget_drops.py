"""`infobatch forget-drops RUN`: brings back the samples that a run leaves out because its pipeline dropped them."""

from __future__ import annotations

import argparse

from infobatch_client.commands.which_server import add_grpc_arguments, connect
from infobatch_stream.v1 import score_service_pb2 as pb

HELP = "Bring back the samples that a run leaves out because its pipeline dropped them."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("run", metavar="RUN", help="the run's name")
    add_grpc_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Prints how many samples the next plan has again; 0."""
    client = connect(args)
    try:
        forgotten = client.forget_drops(pb.ForgetDropsRequest(run=args.run)).forgotten
    finally:
        client.close()
    print(f"run {args.run}: {forgotten:,} dropped samples are forgotten; plans drawn from now on have them again")
    return 0
