// Sphinx's search, as it is, but for one thing: what is only in the reference of the library comes after the book's pages.

var Scorer = {
  score: ([page, , , , score]) => (/^book\/api$|^_modules\//.test(page) ? score - 100 : score),
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
