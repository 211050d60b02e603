"""Looking back at batches and runs: replay, measure, inspect, budget. Nothing here is part of training."""
