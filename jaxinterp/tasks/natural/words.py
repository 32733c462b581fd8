"""The words that the natural prompts draw from. A tokenizer decides which of them it can be asked about."""

from typing import NamedTuple


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


#: First names: common ones that most tokenizers have as one token, and some that few have. None is another word too.
NAMES = _words("""
    Mary John Tom James Anna Emma Paul Laura Alice Peter Sarah David Kate Simon Lucy Daniel Julia Adam
    Claire Robert Helen Michael Jane Kevin Susan Brian Nancy George Linda Henry Diana Rachel Scott Amy
    Eric Ryan Steve Lisa Greg Megan Jason Nicole Luke Sophie Olivia Oscar Chloe Leo Hannah Felix Ruth
    Hugo Clara Molly Martin Ella Andrew Tina Bruce Wendy Carl Dennis Richard Thomas William Joseph
    Charles Anthony Matthew Steven Edward Jeffrey Gary Stephen Benjamin Samuel Patrick Alexander Tyler
    Aaron Nathan Kyle Jennifer Elizabeth Jessica Karen Maria Ashley Kimberly Donna Michelle Amanda
    Melissa Deborah Rebecca Katherine Maya Fatima Ahmed Priya Kwame Ingrid Beatrice Theodore Cordelia
    Ezekiel Rosalind Octavia Leopold
""")

PLACES = _words("""
    store park school garden kitchen library museum market beach office hospital restaurant theater
    church castle farm forest harbor bakery hotel gym zoo bank bridge village airport cinema house
    square stadium station playground factory lake
""")

#: Every object begins with a consonant, so that "a" fits before it.
OBJECTS = _words("""
    drink book ball ring letter gift coat hat map pen lamp basket ticket sandwich cake necklace computer
    guitar camera bottle blanket picture drum cup plate knife toy kite puzzle present mirror pencil bag
""")

#: What lasts, and has a beginning and an end.
EVENTS = _words("""
    war siege truce drought famine plague voyage reign trial strike feud rebellion revolt campaign
    alliance dispute boycott embargo occupation expedition blockade exile partnership marriage friendship
    journey quarrel project experiment program tour festival lawsuit ban treaty regime empire dynasty
    conflict struggle
""")


class Noun(NamedTuple):
    """A noun in both numbers."""

    singular: str
    plural: str


#: People and animals: whatever one of them does, another can see.
NOUNS = tuple(
    Noun(*line.split())
    for line in """
    author authors
    teacher teachers
    doctor doctors
    student students
    officer officers
    guard guards
    player players
    driver drivers
    writer writers
    singer singers
    farmer farmers
    lawyer lawyers
    manager managers
    customer customers
    senator senators
    soldier soldiers
    scientist scientists
    artist artists
    actor actors
    pilot pilots
    nurse nurses
    judge judges
    king kings
    girl girls
    boy boys
    child children
    man men
    woman women
    parent parents
    brother brothers
    sister sisters
    friend friends
    neighbor neighbors
    visitor visitors
    tourist tourists
    reporter reporters
    minister ministers
    worker workers
    banker bankers
    dancer dancers
    carpenter carpenters
    librarian librarians
    dog dogs
    cat cats
    horse horses
    bird birds
    lion lions
    wolf wolves
    """.strip().splitlines()
)

#: Verbs that may follow any subject, for one and for several.
AUXILIARIES = (("is", "are"), ("was", "were"), ("has", "have"), ("does", "do"))

#: Verbs that need an object, for one and for several: what "the man that the girl" goes on with.
TRANSITIVES = (
    ("likes", "like"),
    ("loves", "love"),
    ("knows", "know"),
    ("sees", "see"),
    ("hates", "hate"),
    ("needs", "need"),
    ("wants", "want"),
    ("trusts", "trust"),
    ("admires", "admire"),
)

#: The same in the past tense, which says nothing about number.
PAST = _words("saw liked knew met helped followed found called thanked")
