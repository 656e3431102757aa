"""benchmarks: plans and runs many pretrainings and transfers."""
