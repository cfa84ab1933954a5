// Links with state that were sent before something moved to another page still open it.
const MOVED = [[/\/4\.2-weak-localization\.html$/, "#sensitivity.", "4.1-sensitivity.html"]];
for (const [page, state, there] of MOVED) {
    if (page.test(location.pathname) && location.hash.startsWith(state)) location.replace(there + location.hash);
}
