"""What is wrong with a data set although it can be read: what `examine.examined` looks at."""
