"""How good a quantized file is: perplexity, KL divergence, errors of tensors, and which tensors matter.

`chunks` cuts a text, `evaluate` computes its logits group by group, `scores` adds up what `log_probs` and `kl` make of
them, and `base_file` keeps one model's log-probabilities for the comparison with others. `tensor_error` compares
weights, and `sensitivity` measures what rounding one matrix does to the predictions.
"""
