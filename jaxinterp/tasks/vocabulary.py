"""The words the tasks are made of, by kind. Words that glue sentences together stand in the grammars."""

from typing import NamedTuple


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NAMES = _words("""
    Mary John Tom Anna James Emma Paul Laura Mark Alice Peter Sarah David Kate Simon Lucy Daniel Julia
    Adam Claire Robert Helen Michael Jane Kevin Susan Brian Nancy George Linda Frank Karen Henry Diana
    Jack Rachel Scott Amy Eric Grace Ryan Rose Steve Lisa Greg Megan Jason Nicole Luke Sophie Max Olivia
    Oscar Chloe Leo Hannah Felix Ruth Hugo Clara Victor Molly Martin Ella Andrew Tina Bruce Wendy Carl
    Irene Dennis Paula
""")

PLACES = _words("""
    store park school garden kitchen library museum market beach office hospital restaurant theater
    church castle farm forest harbor bakery cafe hotel gym zoo bank bridge village airport cinema house
    square stadium station playground mall factory lake
""")

#: Every object begins with a consonant, so that "a" fits before it.
OBJECTS = _words("""
    drink book ball ring letter gift coat hat map pen lamp basket ticket sandwich cake cookie necklace
    computer guitar camera bottle bone blanket picture drum cup plate knife spoon toy kite puzzle wallet
    scarf present coin candle mirror pencil jacket newspaper bag
""")

MOODS = _words("tired happy hungry busy quiet late sick bored angry lost thirsty sad ready nervous proud")

WEEKDAYS = _words("monday tuesday wednesday thursday friday saturday sunday")
MONTHS = _words("january february march april may june july august september october november december")
NUMBERS = _words("""
    one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
    seventeen eighteen nineteen twenty
""")
LETTERS = _words("A B C D E F G H I J K L M N O P Q R S T U V W X Y Z")


class Noun(NamedTuple):
    """A noun in both numbers, and what it does in both numbers."""

    singular: str
    plural: str
    does: str
    do: str


#: Those a name may give something to.
PEOPLE = _words("""
    teacher farmer dancer runner swimmer child student painter driver writer pilot doctor nurse guard
    boy girl man woman visitor guest tourist lawyer neighbor actor
""")
