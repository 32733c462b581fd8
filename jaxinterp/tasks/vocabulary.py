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

COLORS = _words("red blue green black white yellow brown pink")
QUALITIES = _words("old young small big tall loud brave strange clever famous lonely friendly")
MOODS = _words("tired happy hungry busy quiet late sick bored angry lost thirsty sad ready nervous proud")
WEATHERS = _words("cold warm sunny rainy windy long short beautiful")
ADVERBS = _words("slowly quickly quietly kindly finally secretly suddenly politely")

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


NOUNS = tuple(
    Noun(*line.split())
    for line in """
    dog dogs barks bark
    cat cats sleeps sleep
    bird birds sings sing
    baby babies cries cry
    teacher teachers talks talk
    farmer farmers works work
    dancer dancers dances dance
    runner runners runs run
    swimmer swimmers swims swim
    child children laughs laugh
    horse horses jumps jump
    lion lions roars roar
    student students reads read
    painter painters paints paint
    driver drivers drives drive
    writer writers writes write
    pilot pilots flies fly
    doctor doctors helps help
    nurse nurses smiles smile
    guard guards waits wait
    boy boys plays play
    girl girls draws draw
    man men walks walk
    woman women thinks think
    wolf wolves howls howl
    mouse mice hides hide
    bell bells chimes chime
    clock clocks ticks tick
    tree trees grows grow
    star stars shines shine
    boat boats floats float
    ship ships sails sail
    wheel wheels spins spin
    door doors opens open
    shelf shelves falls fall
    glass glasses breaks break
    visitor visitors arrives arrive
    guest guests eats eat
    tourist tourists travels travel
    lawyer lawyers argues argue
    neighbor neighbors complains complain
    actor actors sits sit
    """.strip().splitlines()
)

#: Those a name may give something to.
PEOPLE = _words("""
    teacher farmer dancer runner swimmer child student painter driver writer pilot doctor nurse guard
    boy girl man woman visitor guest tourist lawyer neighbor actor
""")
