// The viewer page: one RFB session of noVNC on the WebSocket that the address of the page names.

import RFB from "./core/rfb.js";

const RECONNECT_MS = 2000;

const params = new URLSearchParams(location.search);
const flag = (name, fallback) => (params.has(name) ? !["0", "false", ""].includes(params.get(name)) : fallback);
const element = (id) => document.getElementById(id);

const status = element("status");
const form = element("credentials");
let rfb = null;
let timer = null;

function show(text, state) {
  status.textContent = text;
  status.dataset.state = state;
}

function address() {
  const host = params.get("host") || location.hostname;
  const port = params.get("port") || location.port;
  const shown = host.includes(":") && !host.startsWith("[") ? `[${host}]` : host;
  return `${flag("encrypt", location.protocol === "https:") ? "wss" : "ws"}://${shown}:${port}/${params.get("path") || ""}`;
}

function connect() {
  clearTimeout(timer);
  if (rfb !== null) {
    return;
  }
  const session = new RFB(element("screen"), address(), { wsProtocols: ["binary"] });
  rfb = session;
  let reason = "";
  let name = "";
  show("Connecting…", "idle");
  session.scaleViewport = flag("scale", true);
  session.viewOnly = flag("view_only", false);
  session.addEventListener("connect", () => {
    show(name ? `Connected to ${name}` : "Connected", "connected");
    element("keys").disabled = element("paste").disabled = session.viewOnly;
    element("connect").textContent = "Disconnect";
    session.focus();
  });
  session.addEventListener("desktopname", (event) => {
    // The first name arrives before the connection counts as made, later ones whenever the server renames itself.
    name = event.detail.name;
    document.title = `${name} - VNC`;
    if (status.dataset.state === "connected") {
      show(`Connected to ${name}`, "connected");
    }
  });
  session.addEventListener("credentialsrequired", () => {
    show("The VNC server asks for a login", "idle");
    form.hidden = false;
  });
  session.addEventListener("securityfailure", (event) => {
    reason = event.detail.reason || "the VNC server refused the login";
  });
  session.addEventListener("disconnect", (event) => {
    rfb = null;
    form.hidden = true;
    element("keys").disabled = element("paste").disabled = true;
    element("connect").textContent = "Connect";
    const wanted = event.detail.clean && status.dataset.state === "leaving";
    show(wanted ? "Disconnected" : `Connection lost${reason ? `: ${reason}` : ""}`, wanted ? "idle" : "failed");
    if (!wanted && !reason && flag("reconnect", false)) {
      timer = setTimeout(connect, RECONNECT_MS);
    }
  });
}

element("connect").addEventListener("click", () => {
  if (rfb === null) {
    connect();
  } else {
    show("Disconnecting…", "leaving");
    rfb.disconnect();
  }
});
element("keys").addEventListener("click", () => rfb?.sendCtrlAltDel());
element("paste").addEventListener("click", () => {
  const text = prompt("Text for the clipboard of the device");
  if (text) {
    rfb?.clipboardPasteFrom(text);
  }
});
form.addEventListener("submit", (event) => {
  event.preventDefault();
  form.hidden = true;
  rfb?.sendCredentials({ username: element("username").value, password: element("password").value });
  element("password").value = "";
});

show("Not connected", "idle");
if (flag("autoconnect", false)) {
  connect();
}
