"""The engine `frozen`: classifiers of the pooled features of a backbone that stays as it is."""
