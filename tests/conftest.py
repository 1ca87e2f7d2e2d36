"""What all tests share: how hypothesis looks for counterexamples."""

from hypothesis import settings

# Examples differ much in what they cost (a first fit imports torch), so none has a deadline of its own.
settings.register_profile("understudy", deadline=None, max_examples=60, print_blob=True)
settings.load_profile("understudy")
