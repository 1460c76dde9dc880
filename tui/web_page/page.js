// Keys go to the app from the start, without a click into it first. Not before it draws: it is told of the focus too.
new MutationObserver((_changes, observer) => {
  if (document.body?.classList.contains("-first-byte")) {
    observer.disconnect();
    document.querySelector(".xterm-helper-textarea").focus();
  }
}).observe(document.documentElement, {subtree: true, attributes: true, attributeFilter: ["class"]});
