"""Sentences from rules: a word in capitals is a symbol, replaced by one of its expansions."""

from collections.abc import Callable, Iterable, Mapping, MutableMapping

from jaxinterp.tasks.choices import Chooser

#: What each symbol may become: `{symbol: (words of one expansion, ...)}`.
Grammar = dict[str, tuple[tuple[str, ...], ...]]


def grammar(rules: Mapping[str, tuple[str, ...]]) -> Grammar:
    """Rules in the form `expand` reads. An expansion that is listed twice is twice as likely.

    Example:
      >>> grammar({"GREETING": ("hello NAME", "hello")})
      {'GREETING': (('hello', 'NAME'), ('hello',))}
    """
    return {symbol: tuple(tuple(text.split()) for text in texts) for symbol, texts in rules.items()}


def is_symbol(word: str) -> bool:
    """Whether a word stands for others: two or more capitals or digits. A single capital is a letter.

    Example:
      >>> [word for word in ("PLACE", "S1", "Mary", "B", ",") if is_symbol(word)]
      ['PLACE', 'S1']
    """
    return len(word) > 1 and word.isupper()


def expand(symbol: str, rules: Grammar, choose: Chooser) -> list[str]:
    """The words that a symbol becomes. Symbols without a rule stay: they are roles that the caller fills.

    Example:
      >>> from jaxinterp.tasks.choices import chooser
      >>> rules = grammar({"GREETING": ("hello NAME ,", "goodbye NAME ,"), "NAME": ("old FRIEND",)})
      >>> expand("GREETING", rules, chooser(0))
      ['hello', 'old', 'FRIEND', ',']
    """
    return compose(choose(rules[symbol]), rules, choose)


def compose(
    text: Iterable[str],
    rules: Grammar,
    choose: Chooser,
    roles: MutableMapping[str, str] | None = None,
    fits: Callable[[str, Iterable[str]], bool] = lambda word, others: word not in others,
) -> list[str]:
    """The words that a text becomes, each symbol in it expanded anew, numbered ones once.

    `NAME1` is an expansion of `NAME` that stays the same wherever `NAME1` stands, and differs from that of `NAME2`.

    Args:
      text: words and symbols.
      rules: what symbols become.
      choose: the source of chance.
      roles: what numbered symbols and other roles stand for; those that are drawn are added.
      fits: whether an expansion of a numbered symbol goes with those that its other numbers have.

    Example:
      >>> from jaxinterp.tasks.choices import chooser
      >>> rules = grammar({"NAME": ("Tom", "Anna")})
      >>> " ".join(compose("NAME1 saw NAME2 and NAME2 saw NAME1".split(), rules, chooser(0)))
      'Tom saw Anna and Anna saw Tom'
    """
    roles = {} if roles is None else roles
    words: list[str] = []
    for word in text:
        if word in roles:
            words.extend(roles[word].split())
        elif word in rules:
            words.extend(compose(choose(rules[word]), rules, choose, roles, fits))
        elif is_symbol(word) and (symbol := word.rstrip("0123456789")) in rules:
            others = [roles[role] for role in roles if role.rstrip("0123456789") == symbol]
            while True:
                drawn = " ".join(compose(choose(rules[symbol]), rules, choose, roles, fits))
                if fits(drawn, others):
                    break
            roles[word] = drawn
            words.extend(drawn.split())
        else:
            words.append(word)
    return words


def fill(words: list[str], roles: Mapping[str, str]) -> str:
    """The text with each role replaced by its word.

    Example:
      >>> fill(["hello", "S1", "and", "IO"], {"S1": "Mary", "IO": "John"})
      'hello Mary and John'
    """
    return " ".join([roles.get(word, word) for word in words])


def terminals(rules: Grammar) -> set[str]:
    """Every word that the rules can emit, roles and other symbols excepted.

    Example:
      >>> sorted(terminals(grammar({"GREETING": ("hello NAME", "hello"), "NAME": ("old FRIEND",)})))
      ['hello', 'old']
    """
    return {word for texts in rules.values() for text in texts for word in text if not is_symbol(word)}
