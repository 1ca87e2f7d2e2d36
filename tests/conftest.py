"""What all tests share: how hypothesis looks for counterexamples."""

from hypothesis import settings

# Examples differ much in what they cost (a first fit imports torch), so none has a deadline of its own.
# The suite tries the same ones each time; `pytest --hypothesis-profile=search` goes for others.
settings.register_profile("search", deadline=None, max_examples=60, print_blob=True)
settings.register_profile("understudy", settings.get_profile("search"), derandomize=True)
settings.load_profile("understudy")
