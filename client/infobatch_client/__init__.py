"""The training side: data set, loader, plan source, score pusher, shard index and reader."""
