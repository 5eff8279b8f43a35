"""The fast form of the from-scratch network: fused layers, buffers and worker processes."""
