"""One module a kind of channel; thin: a Job in, Dispositions out."""
