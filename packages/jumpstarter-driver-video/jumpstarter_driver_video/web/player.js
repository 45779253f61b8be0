// The player page: the live stream in an <img>, loaded again when it breaks, and what the source says of itself.

const RETRY_MS = 1000;
const STATE_MS = 3000;

const element = (id) => document.getElementById(id);
const picture = element("picture");
const status = element("status");
let paused = false;
let retry = null;

function show(text, state) {
  status.textContent = text;
  status.dataset.state = state;
}

function play() {
  clearTimeout(retry);
  picture.src = `/stream?${Date.now()}`;
}

function describe(state) {
  const parts = [state.online ? "live" : "offline"];
  if (state.width && state.height) {
    parts.push(`${state.width}×${state.height}`);
  }
  if (state.online && state.fps) {
    parts.push(`${Math.round(state.fps * 10) / 10} pictures/s`);
  }
  if (!state.online && state.reason) {
    parts.push(state.reason);
  }
  return parts.join(" · ");
}

let wasOnline = true;

async function refresh() {
  try {
    const answer = await fetch("/state");
    if (!answer.ok) {
      throw new Error(await answer.text());
    }
    const state = await answer.json();
    if (state.name !== "unknown") {
      element("name").textContent = state.name;
      document.title = `${state.name} - video`;
    }
    if (!paused) {
      show(describe(state), state.online ? "live" : "failed");
      if (state.online && !wasOnline) {
        play();
      }
    }
    wasOnline = state.online;
  } catch (error) {
    show(error.message || "no connection", "failed");
    wasOnline = false;
  }
  setTimeout(refresh, wasOnline ? STATE_MS : RETRY_MS);
}

picture.addEventListener("error", () => {
  if (!paused) {
    wasOnline = false;
    clearTimeout(retry);
    retry = setTimeout(play, RETRY_MS);
  }
});

element("pause").addEventListener("click", (event) => {
  paused = !paused;
  event.target.setAttribute("aria-pressed", paused);
  event.target.textContent = paused ? "Go on" : "Pause";
  if (paused) {
    picture.src = `/snapshot?${Date.now()}`;
    show("paused", "idle");
  } else {
    show("Connecting…", "idle");
    play();
  }
});

element("fit").addEventListener("click", (event) => {
  const fits = document.body.classList.toggle("fit");
  event.target.setAttribute("aria-pressed", fits);
});

document.body.classList.add("fit");
play();
refresh();
