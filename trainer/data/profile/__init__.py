"""What a dataset holds and what of it deserves a look: ``collect.profile`` reads, ``rules`` says what is looked for.

No torch, and nothing heavy before a dataset is read: pages, tables and docs take the rules from here.
"""
