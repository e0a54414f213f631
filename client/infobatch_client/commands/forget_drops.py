"""`infobatch forget-drops RUN`: brings back the samples that a run leaves out because its pipeline dropped them."""

from __future__ import annotations

import argparse

from infobatch_client.commands.which_server import add_credential_arguments, credentials
from infobatch_client.rpc.address import check_url
from infobatch_client.rpc.client import ScoreClient
from infobatch_stream.v1 import score_service_pb2 as pb

_WAIT_S = 3.0
HELP = "Bring back the samples that a run leaves out because its pipeline dropped them."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("run", metavar="RUN", help="the run's name")
    parser.add_argument(
        "--grpc",
        metavar="HOST:PORT",
        default="127.0.0.1:50051",
        help="the server's gRPC address, grpcs://HOST:PORT for TLS (default: %(default)s)",
    )
    add_credential_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Prints how many samples the next plan has again; 0."""
    client = ScoreClient(check_url(args.grpc), credentials=credentials(args))
    try:
        client.wait_until_up(_WAIT_S)
        forgotten = client.forget_drops(pb.ForgetDropsRequest(run=args.run)).forgotten
    finally:
        client.close()
    print(f"run {args.run}: {forgotten:,} dropped samples are forgotten; plans drawn from now on have them again")
    return 0
