/* What the pages need beyond htmx: theme, copying, dialogs, toasts, and focus that is never lost.
   Loaded in <head> without defer, so that the theme is set before the first paint; everything else waits for events.
   No inline code and no eval: the pages' Content-Security-Policy forbids both. */
'use strict';
(() => {
  const root = document.documentElement;
  const byId = (id) => document.getElementById(id);
  root.classList.add('js');

  /* ---- theme: "system" is the absence of data-theme ---- */
  const THEMES = ['system', 'light', 'dark'];
  const rememberedTheme = () => {
    try {
      return localStorage.getItem('theme');
    } catch {
      return null; // storage is switched off: the system's theme it is
    }
  };
  const applyTheme = (theme) => {
    if (theme === 'light' || theme === 'dark') root.dataset.theme = theme;
    else delete root.dataset.theme;
  };
  const nextTheme = () => {
    const theme = THEMES[(THEMES.indexOf(root.dataset.theme ?? 'system') + 1) % THEMES.length];
    applyTheme(theme);
    try {
      localStorage.setItem('theme', theme);
    } catch { /* the choice then lasts as long as the page */ }
  };
  applyTheme(rememberedTheme());
  addEventListener('storage', (event) => event.key === 'theme' && applyTheme(event.newValue));

  /* ---- where the focus was, and where it goes when that place is gone ---- */
  const FOCUSABLE = 'a[href],button:not(:disabled),input:not(:disabled,[type=hidden]),select:not(:disabled),textarea:not(:disabled),summary,[tabindex="0"]';
  const visible = (element) => element.getClientRects().length > 0;
  const focusables = (region) => [...region.querySelectorAll(FOCUSABLE)].filter(visible);
  let lastPlace = null;
  let openerPlace = null; // that of the link whose dialog is being loaded, or is open

  const rememberPlace = (element) => {
    if (element.closest('.toasts')) return; // a toast comes and goes: the place before it counts
    const region = element.closest('section[id],main') ?? document.querySelector('main');
    lastPlace = { element, region: region.id, index: focusables(region).indexOf(element) };
  };
  const focusAnyway = (element) => {
    if (!element.matches(FOCUSABLE)) element.tabIndex = -1;
    element.focus();
  };
  const focusIsLost = () => {
    const element = document.activeElement;
    return !element || element === document.body || !visible(element);
  };
  // A removed row shifts the next one into its index, so the same index is the next row's same button.
  const restorePlace = () => {
    const place = lastPlace;
    if (!place || openDialog()) return;
    lastPlace = null; // used once
    if (!focusIsLost()) return;
    if (place.element.isConnected && visible(place.element)) return focusAnyway(place.element);
    const region = byId(place.region) ?? document.querySelector('main');
    const candidates = focusables(region);
    focusAnyway(candidates[Math.min(Math.max(place.index, 0), candidates.length - 1)] ?? region);
  };

  /* ---- announcements for screen readers ---- */
  const openDialog = () => document.querySelector('dialog[open]');
  // What lies outside an open modal dialog is inert: neither announced nor usable, so the dialog has its own regions.
  const regionFor = (name) => openDialog()?.querySelector('.' + name) ?? document.querySelector('body > .' + name);
  const announce = (text) => {
    const region = regionFor('live');
    if (!region) return;
    region.textContent = '';
    setTimeout(() => { region.textContent = text; }, 50); // an unchanged text would not be announced again
  };

  /* ---- copying ---- */
  const copyByCommand = (text, button) => {
    const area = document.createElement('textarea');
    area.value = text;
    area.readOnly = true;
    area.className = 'sr';
    (button.closest('dialog') ?? document.body).append(area);
    area.select();
    const copied = document.execCommand('copy'); // over plain http there is no navigator.clipboard
    area.remove();
    button.focus({ preventScroll: true });
    return copied;
  };
  const copyText = async (text, button) => {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      return copyByCommand(text, button);
    }
  };
  const copiedTimers = new WeakMap();
  const showCopied = (button, word) => {
    const label = button.querySelector('span:not(.sr)');
    const use = button.querySelector('use');
    const before = copiedTimers.get(button)?.before ?? { label: label?.textContent, icon: use?.getAttribute('href') };
    clearTimeout(copiedTimers.get(button)?.timer);
    button.classList.add('copied');
    if (label) label.textContent = word;
    use?.setAttribute('href', before.icon.replace(/#.*/, '#check'));
    const timer = setTimeout(() => {
      button.classList.remove('copied');
      if (label) label.textContent = before.label;
      use?.setAttribute('href', before.icon);
      copiedTimers.delete(button);
    }, 2000);
    copiedTimers.set(button, { timer, before });
  };
  const copyFrom = async (button) => {
    const source = button.dataset.copyFrom ? byId(button.dataset.copyFrom) : button.previousElementSibling;
    const text = button.dataset.copy || source?.textContent || '';
    if (!(await copyText(text, button))) {
      if (source) getSelection()?.selectAllChildren(source); // nothing copies here: leave it selected for Ctrl+C
      return;
    }
    const word = document.body.dataset.copied;
    showCopied(button, word);
    announce(word);
  };

  /* ---- dialogs: a link to a page of its own, shown in the page's <dialog> ---- */
  const loadDialog = (link, event) => {
    rememberPlace(link);
    openerPlace = lastPlace;
    htmx.ajax('GET', link.href, { source: '#dialog', target: '#dialog', swap: 'innerHTML', event })
      .catch(() => {}); // a failed request has its toast
  };
  const showDialog = (dialog) => {
    if (!dialog.open) dialog.showModal();
  };
  document.addEventListener('close', (event) => {
    const dialog = event.target;
    if (dialog.id !== 'modal') return;
    byId('dialog').replaceChildren(); // a password shown once leaves the page with its dialog
    lastPlace = openerPlace; // a poll may have ended before it was open
    restorePlace();
  }, true);

  /* ---- toasts ---- */
  const busyWith = (toast) => toast.matches(':hover,:focus-within') || (openDialog() && !toast.closest('dialog'));
  const expire = (toast, milliseconds) => setTimeout(() => {
    if (busyWith(toast)) expire(toast, 2000);
    else toast.remove();
  }, milliseconds);
  const startToasts = () => {
    for (const toast of document.querySelectorAll('.toast:not([data-started])')) {
      toast.dataset.started = '';
      if (!toast.classList.contains('err')) expire(toast, toast.querySelector('form,a') ? 15000 : 6000);
    }
  };
  const dismiss = (toast) => {
    if (toast.contains(document.activeElement)) lastPlace = placeBeforeToast ?? { element: toast, region: 'main', index: -1 };
    toast.remove();
    restorePlace();
  };
  // After the "Undo" of a toast the focus returns to where it was before.
  let placeBeforeToast = null;
  document.addEventListener('focusin', ({ target, relatedTarget }) => {
    if (!target.closest('.toasts') || !relatedTarget || relatedTarget.closest('.toasts')) return;
    rememberPlace(relatedTarget);
    [placeBeforeToast, lastPlace] = [lastPlace, null];
  });
  // kind: "failed", "offline" or "loggedOut", which has the login's address; the words are on the page.
  const findFailure = (kind) => document.querySelector(`.toast[data-failure=${kind}]`);
  const failureToast = (kind, login = '') => {
    const template = byId('toast-failure');
    if (!template || findFailure(kind)) return;
    const toast = template.content.firstElementChild.cloneNode(true);
    const text = toast.querySelector('p');
    toast.dataset.failure = kind;
    text.textContent = text.dataset[kind];
    const link = toast.querySelector('a');
    if (login) link.href = login;
    else link.remove();
    regionFor('toasts')?.append(toast);
  };
  const withdrawFailure = (kind) => findFailure(kind)?.remove();

  /* ---- clicks and keys ---- */
  const opensElsewhere = (event) => event.ctrlKey || event.metaKey || event.shiftKey || event.altKey;
  const onClick = {
    '[data-copy],[data-copy-from]': (button) => copyFrom(button),
    '[data-theme-next]': nextTheme,
    '[data-print]': () => print(),
    '[data-dismiss]': (button) => dismiss(button.closest('.toast')),
    '[data-dialog]': (opener, event) => {
      if (opensElsewhere(event) || !window.htmx) return; // then it is a link like any other
      event.preventDefault();
      loadDialog(opener, event);
    },
    '[data-close]': (button, event) => {
      const dialog = button.closest('dialog');
      if (!dialog) return; // on a page of its own "Exit" is a link back
      event.preventDefault();
      dialog.close();
    },
  };
  const POPUPS = 'details[open]:is(.menu,.help)';
  document.addEventListener('click', (event) => {
    for (const open of document.querySelectorAll(POPUPS)) if (!open.contains(event.target)) open.open = false;
    for (const [selector, act] of Object.entries(onClick)) {
      const element = event.target.closest(selector);
      if (element) act(element, event);
    }
  });
  document.addEventListener('keydown', (event) => {
    const popup = event.key === 'Escape' && document.querySelector(POPUPS);
    if (!popup) return;
    event.preventDefault(); // Esc closes the explanation, not the dialog around it
    popup.open = false;
    popup.querySelector('summary').focus();
  });

  /* ---- a form is sent once ---- */
  const setBusy = (form, busy) => busy ? form.setAttribute('aria-busy', 'true') : form.removeAttribute('aria-busy');
  document.addEventListener('submit', (event) => {
    const form = event.target;
    if (form.getAttribute('aria-busy') === 'true') {
      event.preventDefault();
      event.stopImmediatePropagation();
    } else if (form.method === 'post' && !event.defaultPrevented) {
      setBusy(form, true);
      setTimeout(setBusy, 10000, form, false); // an answer that is a download leaves the page standing
    }
  }, true);
  // What nobody sees in what is pasted would count for `maxlength`, and a browser takes an e-mail address with it for
  // none. The server leaves it out, too (portal/core/pasted_text.py); passwords and texts of messages stay as they are.
  const MARKS = /[\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff]/g;
  // Without a lookbehind, which not every browser knows.
  const JOINERS = /(^|[\x00-\x7f])[\u200c\u200d]+|[\u200c\u200d]+(?=[\x00-\x7f]|$)/g;
  const OUTER_NO_BREAK_SPACES = /^[\u00a0\u2007\u202f]+|[\u00a0\u2007\u202f]+$/g;
  const NO_BREAK_SPACES = /[\u00a0\u2007\u202f]/g;
  const removeInvisibleMarks = (text) => text.replace(MARKS, '').replace(JOINERS, '$1')
    .replace(OUTER_NO_BREAK_SPACES, '').replace(NO_BREAK_SPACES, ' ');
  document.addEventListener('paste', (event) => {
    if (!event.target.matches('input:not([type=password],[name=text])')) return;
    const pasted = event.clipboardData.getData('text');
    const text = removeInvisibleMarks(pasted);
    if (text === pasted) return;
    event.preventDefault();
    document.execCommand('insertText', false, text); // Ctrl+Z takes it back, and `maxlength` holds
  });
  // A file that is too large is refused before it is uploaded.
  document.addEventListener('change', ({ target }) => {
    if (target.dataset.most) target.setCustomValidity(target.files[0]?.size > target.dataset.most ? target.dataset.tooLarge : '');
  });
  // WebKit keeps pages in its memory in spite of Cache-Control: no-store. One that comes back stays as it is, with what
  // was typed and what is shown once, unless its login session has ended meanwhile. To load it again could repeat a POST.
  // The first part of a token is the session's own; the rest is signed anew at times. The menu's is there for users only.
  const sessionOf = (page) => page.querySelector('.menu [name=csrf_token]')?.value.split('.')[0];
  addEventListener('pageshow', async ({ persisted }) => {
    if (!persisted) return;
    for (const form of document.querySelectorAll('form[aria-busy]')) setBusy(form, false);
    const profile = document.querySelector('.menu a');
    if (!profile) return; // nobody is logged in on it
    root.style.visibility = 'hidden';
    try {
      const answer = await fetch(profile.href);
      const page = new DOMParser().parseFromString(await answer.text(), 'text/html');
      if (sessionOf(page) === sessionOf(document)) root.style.visibility = '';
      else location.replace(answer.url); // the login page, or the profile of somebody else
    } catch {
      location.assign(profile.href); // the browser says that there is no answer, and Back asks again
    }
  });

  /* ---- htmx ---- */
  const isPoll = (element) => /\bevery\b/.test(element.getAttribute('hx-trigger') ?? '');
  const on = (name, listener) => document.addEventListener('htmx:' + name, listener);

  on('beforeRequest', (event) => {
    const rests = document.hidden || findFailure('loggedOut'); // nobody sees it, or nobody may
    if (rests && isPoll(event.detail.elt)) event.preventDefault();
  });
  // What leads to the login takes the page away, with what was typed: then only a click or a form that is sent may do so,
  // not a poll, nor what is asked while somebody types. A page in which nothing was typed or chosen goes to the login at
  // once, as who has logged out shouldn't leave it on the screen.
  const isChanged = (field) => field.matches('select')
    // Where no option is marked as the default one, the first one is.
    ? field.selectedIndex !== Math.max([...field.options].findIndex((option) => option.defaultSelected), 0)
    : field.value !== field.defaultValue || (field.checked ?? false) !== (field.defaultChecked ?? false);
  const isTypedInto = () => [...document.querySelectorAll('input:not([type=hidden]),textarea,select')].some(isChanged);
  const findLogin = ({ xhr }) => {
    const address = xhr.getResponseHeader('HX-Redirect');
    return address && new URL(address, location).pathname.endsWith('/login') ? address : '';
  };
  on('beforeOnLoad', (event) => {
    const { elt, triggeringEvent } = event.detail.requestConfig;
    const login = findLogin(event.detail);
    if (!login || !(isPoll(elt) ? isTypedInto() : triggeringEvent?.type === 'input')) return;
    event.preventDefault();
    failureToast('loggedOut', login);
  });
  const keepPlaceIn = (target) => {
    if (!openDialog() && target.contains(document.activeElement)) rememberPlace(document.activeElement);
  };
  // htmx sets detail.elt to the event's target; the element that sent the request is in requestConfig.
  const isFromDialog = (detail) => byId('dialog')?.contains(detail.requestConfig.elt);
  on('beforeSwap', ({ detail }) => {
    if (isFromDialog(detail) && [422, 429].includes(detail.xhr.status)) {
      detail.target = byId('dialog');
      detail.swapOverride = 'innerHTML';
    }
    keepPlaceIn(detail.target);
  });
  // What the user has opened, selected or scrolled stays so when that part of the page is replaced.
  const scrolled = new Map();
  on('oobBeforeSwap', ({ detail: { target, fragment } }) => {
    keepPlaceIn(target);
    for (const open of target.querySelectorAll('details[id][open]')) fragment.getElementById(open.id)?.setAttribute('open', '');
    for (const { name, value } of target.querySelectorAll('[type=checkbox]:checked')) {
      fragment.querySelector(`[type=checkbox][name="${name}"][value="${value}"]`)?.setAttribute('checked', '');
    }
    if (target.id) scrolled.set(target.id, target.querySelector('.scroll')?.scrollTop ?? 0);
  });
  on('oobAfterSwap', ({ detail: { target } }) => {
    const box = scrolled.get(target.id) && byId(target.id)?.querySelector('.scroll');
    if (box) box.scrollTop = scrolled.get(target.id);
  });
  on('afterRequest', ({ detail }) => {
    const requester = detail.requestConfig.elt;
    const modal = byId('modal');
    const content = byId('dialog');
    if (requester.matches('form')) setBusy(requester, false);
    if (detail.successful) withdrawFailure('offline');
    if (detail.successful && !findLogin(detail)) withdrawFailure('loggedOut');
    if (detail.successful && content?.contains(detail.target)) showDialog(modal); // all of it, or a part
    else if (detail.successful && isFromDialog(detail)) modal.close();
    const toast = detail.successful && requester.closest('.toast');
    if (toast) dismiss(toast); // undone: nothing is left to undo
    if (!isPoll(requester)) focusMarked(detail.target);
    restorePlace();
  });
  const focusMarked = (target) => {
    const region = target?.isConnected ? target : target?.id && byId(target.id);
    const element = region && (region.querySelector('[aria-invalid=true]') ?? region.querySelector('[data-focus]'));
    if (element) focusAnyway(element);
  };
  // A poll that fails is repeated, so the user needn't know.
  on('responseError', ({ detail }) => isPoll(detail.requestConfig.elt) || failureToast('failed'));
  on('sendError', () => failureToast('offline'));
  on('timeout', () => failureToast('offline'));

  /* ---- the exact time of a relative one, as a tooltip: in the markup screen readers would read it twice ---- */
  document.addEventListener('pointerover', ({ target }) => {
    const time = target.closest('time');
    const exactly = time?.querySelector('.sr');
    if (exactly) time.title = exactly.textContent.replace(/^, /, '');
  });

  /* ---- when the page is loaded ---- */
  document.addEventListener('DOMContentLoaded', () => {
    const region = document.querySelector('body > .toasts');
    if (region) new MutationObserver(startToasts).observe(region, { childList: true });
    startToasts();
    // On a phone the search form would fill the screen: it starts folded.
    const narrow = matchMedia('(max-width: 639px)');
    const fold = () => {
      for (const asks of document.querySelectorAll('.asks:not([data-on])')) asks.open = !narrow.matches;
    };
    narrow.addEventListener('change', fold);
    fold();
    document.querySelector('[aria-invalid=true]')?.focus();
    for (const current of document.querySelectorAll('.accounts [aria-current]')) {
      const box = current.closest('nav');
      box.scrollLeft = current.offsetLeft - (box.clientWidth - current.offsetWidth) / 2;
    }
  });
})();
