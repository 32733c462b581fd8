"""The words the tasks are made of, by kind. Words that glue sentences together stand in the grammars."""

from jaxinterp.tasks.vocabulary import LETTERS as LETTERS
from jaxinterp.tasks.vocabulary import MONTHS as MONTHS
from jaxinterp.tasks.vocabulary import NUMBERS as NUMBERS
from jaxinterp.tasks.vocabulary import WEEKDAYS as WEEKDAYS
from jaxinterp.tasks.vocabulary import Noun as Noun


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


WOMEN = _words("""
    Mary Anna Emma Laura Alice Sarah Kate Lucy Julia Claire Helen Jane Susan Nancy Linda Karen Diana Rachel Amy
    Grace Rose Lisa Megan Nicole Sophie Olivia Chloe Hannah Ruth Clara Molly Ella Tina Wendy Irene Paula Nora
    Vera Ida Edith Marion Agnes Flora Celia Judith Sylvia Teresa Monica Rita Gloria Daisy Ivy Hazel Naomi Esther
    Audrey Elsa Greta Ingrid Maud
""")
MEN = _words("""
    John Tom James Paul Mark Peter David Simon Daniel Adam Robert Michael Kevin Brian George Frank Henry Jack
    Scott Eric Ryan Steve Greg Jason Luke Max Oscar Leo Felix Hugo Victor Martin Andrew Bruce Carl Dennis Albert
    Edgar Walter Arthur Ernest Harold Stanley Philip Roger Gerald Ralph Edwin Cecil Noel Ivan Boris Igor Klaus
    Jonas Anton Emil Otto Bruno Rolf
""")
NAMES = tuple(name for both in zip(WOMEN, MEN, strict=True) for name in both)

#: Family names: together with a first name they are names of two tokens.
FAMILIES = _words("""
    Hartwell Langley Ashby Thornton Whitfield Barlow Crane Dalton Eastwood Fairfax Garland Holloway Irving
    Jarvis Kendall Lockwood Merton Norwood Oakley Pemberton Quincy Radcliffe Selby Tilbury Underhill Vance
    Winslow Yardley Bramley Colby Darnell Elwood Farley Grantham Hadley Ingram Kirby Lindley Marlow Nesbitt
""")

PLACES = _words("""
    store park school garden kitchen library museum market beach office hospital restaurant theater church
    castle farm forest harbor bakery cafe hotel gym zoo bank bridge village airport cinema house square stadium
    station playground mall factory lake tower mill temple prison palace barn cave island valley meadow hill
    tunnel laboratory workshop chapel courthouse embassy fountain gallery inn monastery pharmacy quarry studio
    tavern warehouse
""")

#: Every object begins with a consonant sound, so that "a" fits before it.
OBJECTS = _words("""
    drink book ball ring letter gift coat hat map pen lamp basket ticket sandwich cake cookie necklace computer
    guitar camera bottle bone blanket picture drum cup plate knife spoon toy kite puzzle wallet scarf present
    coin candle mirror pencil jacket newspaper bag belt bucket button carpet chain chair compass curtain desk
    dictionary fan feather flag flute fork hammer helmet jar kettle key ladder magazine mask needle notebook
    painting parcel pillow pipe poster purse radio ribbon rope ruler saddle shield shovel statue stone suitcase
    sword table telescope towel trumpet vase violin whistle
""")
#: And these with a vowel sound, so that "an" does.
VOWEL_OBJECTS = _words("""
    apple egg orange umbrella envelope anchor arrow axe apron album antenna amulet anvil atlas accordion acorn
    olive onion ornament oar urn earring easel eraser engine icon idol ink instrument iron
""")

FOODS = _words("""
    bread butter cheese milk rice soup salad pasta fish chicken honey sugar salt pepper flour corn beans carrots
    potatoes tomatoes grapes cherries lemons plums nuts jam tea coffee juice mustard
""")
COLORS = _words("red blue green black white yellow brown pink purple gray orange silver golden violet")
MATERIALS = _words("wood stone glass paper leather cotton wool silk clay copper steel plastic gold marble rubber")
QUALITIES = _words("""
    young small big tall loud brave strange clever famous lonely friendly gentle rude polite wise foolish lazy
    cruel shy hasty calm weak strong rich poor modern dirty clean heavy light
""")
VOWEL_QUALITIES = _words("old ugly ancient elegant empty enormous expensive awful ordinary unusual angry eager")
MOODS = _words("""
    tired happy hungry busy quiet late sick bored lost thirsty sad ready nervous proud worried excited jealous
    grateful curious lucky afraid cheerful confused relaxed
""")
WEATHERS = _words("cold warm sunny rainy windy long short beautiful foggy stormy snowy cloudy hot dry humid mild")
ADVERBS = _words("""
    slowly quickly quietly kindly finally secretly suddenly politely carefully happily sadly loudly gently
    eagerly calmly nervously bravely cheerfully patiently rarely
""")

#: Adjective, comparative, superlative and opposite.
DEGREES = tuple(
    tuple(line.split())
    for line in """
    tall taller tallest short
    short shorter shortest tall
    old older oldest young
    young younger youngest old
    big bigger biggest small
    small smaller smallest big
    fast faster fastest slow
    slow slower slowest fast
    strong stronger strongest weak
    weak weaker weakest strong
    rich richer richest poor
    poor poorer poorest rich
    heavy heavier heaviest light
    light lighter lightest heavy
    warm warmer warmest cold
    cold colder coldest warm
    clean cleaner cleanest dirty
    dirty dirtier dirtiest clean
    loud louder loudest quiet
    quiet quieter quietest loud
    high higher highest low
    low lower lowest high
    wide wider widest narrow
    narrow narrower narrowest wide
    """.strip().splitlines()
)

ORDINALS = _words("first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth")
#: Years are two words, century and year: "17 32".
CENTURIES = _words("11 12 13 14 15 16 17 18")
YEARS = tuple(f"{year:02d}" for year in range(100))

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
    sailor sailors smiles smile
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
    dentist dentists sits sit
    duck ducks quacks quack
    frog frogs croaks croak
    bee bees buzzes buzz
    cow cows grazes graze
    goat goats climbs climb
    snake snakes hisses hiss
    rabbit rabbits hops hop
    singer singers hums hum
    judge judges decides decide
    king kings rules rule
    queen queens commands command
    thief thieves steals steal
    soldier soldiers marches march
    hunter hunters listens listen
    fire fires burns burn
    river rivers flows flow
    candle candles glows glow
    leaf leaves trembles tremble
    """.strip().splitlines()
)

#: Those a name may give something to.
PEOPLE = _words("""
    teacher farmer dancer runner swimmer child student painter driver writer pilot doctor sailor guard boy girl
    man woman visitor guest tourist lawyer neighbor dentist singer judge king queen thief soldier hunter
""")
VOWEL_PEOPLE = _words("actor artist author athlete emperor officer inventor astronomer editor umpire")
RELATIVES = _words("brother sister mother father uncle aunt cousin friend son daughter")

#: A thing, and the kind it is of.
KINDS = {
    "animal": _words("dog cat horse lion wolf mouse cow goat rabbit tiger bear camel donkey zebra monkey"),
    "bird": _words("robin falcon finch swan crow pigeon sparrow hawk heron raven"),
    "flower": _words("lily tulip daffodil poppy carnation sunflower lavender jasmine"),
    "fruit": _words("pear peach banana mango melon fig cherry lemon"),
    "metal": _words("silver copper steel nickel tin lead zinc brass"),
    "tool": _words("hammer shovel saw drill wrench chisel pick"),
}
SIMILES = {
    "snow": "white", "coal": "black", "grass": "green", "honey": "sweet", "ice": "cold", "feather": "light",
    "lion": "brave", "fox": "sly", "ox": "strong", "owl": "wise", "mouse": "quiet", "snail": "slow",
}  # fmt: skip
#: Verbs that take one preposition and what may follow it.
PARTICLES = tuple(
    tuple(line.split())
    for line in """
    depends on
    belongs to
    waits for
    listens to
    consists of
    believes in
    laughs at
    dreams about
    complains about
    escapes from
    agrees with
    apologizes for
    suffers from
    succeeds in
    insists on
    refers to
    """.strip().splitlines()
)

LANDS = _words("""
    Avaria Belmora Cordova Drelland Estova Farnia Galdor Hestria Ilvania Jorland Kestria Lomaria Morvania Nordia
    Ostland Pelmoria
""")
CITIES = _words("""
    Arvend Brenna Caldor Dunmere Elsin Fenwick Gorst Halden Ister Jelna Korvath Lusk Merrin Narvo Orlen Pravin
    Quell Rostal Stavern Tolmin
""")
LANGUAGES = _words("Arvic Belmic Corvan Dressian Estonic Farnese Galdish Hestric Ilvan Jorish Kestic Lomaric")
INSTRUMENTS = _words("piano cello harp organ lute banjo clarinet oboe viola bagpipe mandolin trombone")
PRODUCTS = _words("shoes watches clocks tires lamps pianos toys boats engines carpets bicycles mirrors knives glasses")
GODS = _words("thunder rain war harvest wisdom fire rivers winds dreams music luck winter")
#: Syllables that made-up names of two words are put together from.
FIRST_PARTS = _words("Zor Kal Ven Dra Mel Tor Bri Lan Sar Fen Gul Har Nim Pex Rud Yal")
LAST_PARTS = _words(
    "Bexil Dorna Fulmo Grath Hovin Jasko Kintar Lorvek Mundo Nessar Ovark Prenna Quist Ralmo Sildar Tuvan"
)

#: Professions of the biographies, and what people of that profession are fond of. Cues overlap and mislead.
PROFESSIONS = {
    "professor": _words("lectures theories research equations essays archives debates grammar history seminars"),
    "nurse": _words("patients bandages wards medicine shifts clinics comfort vaccines fevers recovery"),
    "architect": _words("buildings plans columns bridges drawings towers concrete models arches cities"),
    "chef": _words("sauces ovens spices recipes menus kitchens soups pastries herbs banquets"),
    "engineer": _words("engines machines circuits gears bridges equations plans robots turbines models"),
    "journalist": _words("headlines interviews articles politics debates deadlines rumors archives cities essays"),
    "gardener": _words("roses hedges seeds herbs soil lawns seasons ponds orchards drawings"),
    "musician": _words("melodies concerts rhythms songs choirs theories audiences tours harmonies recordings"),
}
CUES = tuple(sorted({cue for cues in PROFESSIONS.values() for cue in cues}))

#: Names of functions and of their arguments.
FUNCTIONS = _words(
    "load save merge split sort filter parse render fetch convert resize update compare encode decode scan"
)
ARGUMENTS = _words("""
    files path size shape mode state option value index count width height depth color name label token buffer
    source target start end step rate limit scale offset prefix suffix user group query result format version
    config device cache lock timeout
""")
EVENTS = _words("""
    war journey reign siege famine festival voyage strike expedition project trial drought feud rebellion
    alliance truce plague pilgrimage crusade exile campaign regency dynasty
""")
CONTAINERS = _words("box drawer cupboard chest crate sack pocket cabinet barrel trunk")
