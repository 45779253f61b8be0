"use strict";
(() => {
  const live = document.getElementById("live"), state = document.getElementById("state");
  const filter = document.getElementById("filter");
  let source = null, busy = false, again = false, last = "", skew = 0;

  // -- times in the reader's own zone, kept current --
  const clock = new Intl.DateTimeFormat([], { hour: "2-digit", minute: "2-digit" });
  const day = new Intl.DateTimeFormat([], { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit" });
  const span = seconds => {
    const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
    for (let i = 0; i < units.length; i++) {
      const [unit, size] = units[i], next = units[i + 1];
      if (seconds < size) continue;
      const rest = i + 1 < units.length - 1 ? Math.floor(seconds % size / next[1]) : 0;
      return `${Math.floor(seconds / size)} ${unit}` + (rest ? ` ${rest} ${next[0]}` : "");
    }
    return "";
  };
  const times = () => {
    const now = Date.now() + skew;
    for (const time of live.querySelectorAll("time")) {
      const moment = new Date(time.dateTime), away = Math.round((moment - now) / 1000), text = span(Math.abs(away));
      time.title = moment.toLocaleString();
      time.querySelector(".clock").textContent = (Math.abs(away) < 64800 ? clock : day).format(moment);
      time.querySelector(".ago").textContent = text === "" ? "now" : away > 0 ? `in ${text}` : `${text} ago`;
    }
  };

  const narrow = () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of live.querySelectorAll("tbody tr")) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every(word => text.includes(word));
    }
  };

  // -- what is new --
  const selecting = () => {
    const chosen = document.getSelection();
    return chosen && !chosen.isCollapsed && live.contains(chosen.anchorNode);
  };
  const refresh = async () => {
    if (busy) { again = true; return; }
    busy = true;
    try {
      const response = await fetch("/dashboard/content", { credentials: "same-origin" });
      if (response.status === 401) { location.reload(); return; }
      if (response.ok) {
        const now = Date.parse(response.headers.get("X-Lab-Time") || "");
        if (!Number.isNaN(now)) skew = now - Date.now();
        const text = await response.text();
        if (selecting()) again = true;
        else if (text !== last) { last = text; live.innerHTML = text; narrow(); times(); }
      }
    } catch { /* The stream tells when the lab is back. */ }
    busy = false;
    if (again) { again = false; setTimeout(refresh, 1000); }
  };
  const show = (value, text) => { state.dataset.state = value; state.textContent = text; };
  const open = () => {
    if (source || document.hidden) return;
    source = new EventSource("/dashboard/events");
    source.addEventListener("open", () => show("on", "live"));
    source.addEventListener("changed", refresh);
    source.addEventListener("ended", () => location.reload());
    source.addEventListener("error", () => {
      show("lost", "connecting");
      if (source.readyState === EventSource.CLOSED) { close(); setTimeout(open, 5000); refresh(); }
    });
  };
  const close = () => { if (source) source.close(); source = null; };
  document.addEventListener("visibilitychange", () => document.hidden ? close() : open());

  filter.hidden = false;
  filter.addEventListener("input", narrow);
  narrow();
  times();
  setInterval(times, 5000);
  open();
})();
