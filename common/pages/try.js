// "Try it": camera, photos, video or the rendered scene → the server's network → skeletons, figures, records.
import { addTips, alertLine, ask, at, guarded, json, save } from "/page.js";
import { downloads } from "/export.js";

const IN_FLIGHT = 2;
const MOST_KEPT = 36000;
const choices = await json("/try/choices");
const panels = [];
let source = null;       // {kind, video | picture, name, width, height, draw(context, w, h)}
let generation = 0;      // counts up whenever another source is chosen: answers to older ones are dropped
let flying = 0, sent = 0, lastTime = -1;
let recording = null;    // {started, recorder, chunks}
let kept = [];           // results as `python -m sim run --json` writes them
let video = null;        // a recorded video

// -- panels ---------------------------------------------------------------------------------------------------

class Panel {
  constructor(number) {
    const made = at("panel").content.cloneNode(true);
    this.root = made.firstElementChild;
    const find = name => this.root.querySelector(name);
    this.canvas = find("canvas");
    this.network = find(".network");
    this.size = find(".size");
    this.id = `${Math.random().toString(36).slice(2, 10)}-${number}`;
    for (const { name, what, here, megabytes } of choices.networks) {
      const option = new Option(here ? name : `${name} (fetched first, ${megabytes} MB)`, name);
      option.title = what;
      this.network.append(option);
    }
    this.network.value = number ? (choices.networks.find(one => one.here && one.name === "people-k210") ?? choices.networks[0]).name : choices.chosen;
    this.sizes();
    this.network.addEventListener("change", () => { this.sizes(); again(); });
    this.size.addEventListener("change", again);
    this.done = [];
    this.shownNumber = 0;
    addTips(this.root);
    at("panels").append(this.root);
  }
  sizes() {
    const usual = choices.networks.find(one => one.name === this.network.value).size;
    this.size.replaceChildren(...[...new Set([usual, ...choices.sizes])].map(size => new Option(size)));
    this.network.title = choices.networks.find(one => one.name === this.network.value).what;
  }
  say(text) {
    const wait = this.root.querySelector(".wait");
    if (wait.textContent !== text) wait.textContent = text;
  }
  query(width, height, still) {
    const flag = id => at(id).checked ? "1" : "0";
    return new URLSearchParams({
      network: this.network.value, size: this.size.value, mount: at("mount").value, panel: this.id, w: width, h: height,
      threshold: at("threshold").value, people: at("people").value, framing: flag("framing"), heat: at("heat").value,
      track: still ? "0" : flag("track"), still: still ? "1" : "0",
    });
  }
  /** Size in which a frame of the source goes to the server: what the network sees, or more where it may look closer. */
  wanted(still) {
    const [across, down] = this.size.value.split("x").map(Number);
    const [netWidth, netHeight] = at("mount").value % 180 ? [down, across] : [across, down];
    const most = Math.sqrt(choices.largest_bytes / 3 / (source.width * source.height));
    const fit = still || at("framing").checked ? 1 : Math.max(netWidth / source.width, netHeight / source.height);
    const scale = Math.min(1, most, fit);
    return [Math.max(1, Math.floor(source.width * scale)), Math.max(1, Math.floor(source.height * scale))];
  }
  show(answer, shot, scale, still) {
    const { canvas } = this;
    if (canvas.width !== shot.width || canvas.height !== shot.height) [canvas.width, canvas.height] = [shot.width, shot.height];
    const context = canvas.getContext("2d");
    context.drawImage(shot, 0, 0);
    if (answer.heat) drawHeat(context, answer.heat, scale);
    if (answer.view) drawView(context, answer.view, scale);
    for (const pose of answer.poses) drawPose(context, pose, scale);
    const now = performance.now();
    this.done.push(now);
    while (this.done[0] < now - 3000) this.done.shift();
    const set = (name, text) => { this.root.querySelector(name).textContent = text; };
    set(".fps", still || this.done.length < 2 ? "–" : ((this.done.length - 1) * 1000 / (now - this.done[0])).toFixed(1));
    set(".ms", answer.ms.all.toFixed(0));
    set(".kpu", answer.kpu_ms.toFixed(0));
    const words = answer.poses.length === 1 ? "1 person" : `${answer.poses.length || "no"} people`;
    if (canvas.getAttribute("aria-label") !== words) canvas.setAttribute("aria-label", words);
    this.root.querySelector(".people").replaceChildren(...answer.poses.map(pose => {
      const item = document.createElement("li"), dot = document.createElement("b");
      dot.style.background = colourOf(pose);
      item.append(dot, `person ${pose.id}: ${Math.round(100 * pose.score)} %`);
      return item;
    }));
    this.root.dataset.frames = Number(this.root.dataset.frames ?? 0) + 1;
    this.root.dataset.people = answer.poses.length;
    this.root.dataset.cpu = answer.cpu_s;
  }
}

const colourOf = pose => choices.colours[(pose.id - 1 + choices.colours.length) % choices.colours.length];

function drawPose(context, pose, scale) {
  const sure = at("threshold").value / 100, width = Math.max(2, Math.max(context.canvas.width, context.canvas.height) / 160);
  const colour = colourOf(pose);
  context.lineCap = "round";
  context.strokeStyle = context.fillStyle = colour;
  for (const [a, b] of choices.edges) {
    const [x1, y1, s1] = pose.keypoints[a], [x2, y2, s2] = pose.keypoints[b], least = Math.min(s1, s2);
    if (least < sure / 2) continue;
    context.globalAlpha = least >= sure ? 1 : 0.4;
    context.lineWidth = least >= sure ? width : width / 2;
    context.beginPath();
    context.moveTo(x1 * scale, y1 * scale);
    context.lineTo(x2 * scale, y2 * scale);
    context.stroke();
  }
  context.globalAlpha = 1;
  for (const [x, y, score] of pose.keypoints) {
    if (score < sure) continue;
    context.beginPath();
    context.arc(x * scale, y * scale, width * 1.1, 0, 7);
    context.fillStyle = "#fff";
    context.fill();
    context.beginPath();
    context.arc(x * scale, y * scale, width * 0.7, 0, 7);
    context.fillStyle = colour;
    context.fill();
  }
}

function drawHeat(context, heat, scale) {
  const side = heat.size * scale;
  for (const [x, y, score, toX, toY] of heat.cells) {
    context.fillStyle = `rgba(255, 90, 0, ${0.75 * score})`;
    context.fillRect(x * scale - side / 2, y * scale - side / 2, side, side);
    if (toX === undefined || score < 0.15) continue;
    context.strokeStyle = "#fff";
    context.lineWidth = 1.5;
    context.beginPath();
    context.moveTo(x * scale, y * scale);
    context.lineTo(toX * scale, toY * scale);
    context.stroke();
    context.fillStyle = "#fff";
    context.fillRect(toX * scale - 2, toY * scale - 2, 4, 4);
  }
}

function drawView(context, corners, scale) {
  context.strokeStyle = "#fff";
  context.lineWidth = 2;
  context.setLineDash([8, 6]);
  context.beginPath();
  for (const [x, y] of corners) context.lineTo(x * scale, y * scale);
  context.closePath();
  context.stroke();
  context.setLineDash([]);
}

// -- sources --------------------------------------------------------------------------------------------------

function choose(next) {
  generation += 1;
  if (source?.stream) for (const track of source.stream.getTracks()) track.stop();
  if (source?.video) { source.video.pause(); if (source.url) URL.revokeObjectURL(source.url); }
  source?.picture?.close?.();
  source = next;
  flying = 0;
  lastTime = -1;
  at("stop").disabled = !next;
  document.body.dataset.source = next?.kind ?? "";
  for (const panel of panels) { panel.done = []; if (!next) panel.say(""); }
  if (next && next.kind !== "photo") requestAnimationFrame(() => live(generation));
}

async function playing(made) {
  made.video.muted = made.video.playsInline = true;
  await made.video.play();
  made.width = made.video.videoWidth;
  made.height = made.video.videoHeight;
  if (!made.width) throw new Error(`${made.name} has no pictures that this browser can show`);
  return made;
}

async function camera() {
  if (!navigator.mediaDevices) throw new Error("this browser gives a camera only to pages at 127.0.0.1 or localhost");
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 640 }, height: { ideal: 480 } } });
  } catch (error) {
    const why = { NotAllowedError: "the browser was not allowed to use it; allow it beside the address",
      NotFoundError: "none is connected", NotReadableError: "another program uses it" }[error.name] ?? error.message;
    throw new Error(`no camera: ${why}`);
  }
  choose(await playing({ kind: "camera", name: "camera", stream, video: Object.assign(document.createElement("video"), { srcObject: stream }) }));
}

async function files(list) {
  const photos = [...list].filter(file => file.type.startsWith("image/"));
  const video = [...list].find(file => file.type.startsWith("video/"));
  if (!photos.length && !video) throw new Error("that is neither a photo nor a video that this browser knows");
  if (video) {
    const url = URL.createObjectURL(video);
    const element = Object.assign(document.createElement("video"), { src: url, loop: true });
    try {
      choose(await playing({ kind: "video", name: video.name, url, video: element }));
    } catch (error) {
      URL.revokeObjectURL(url);
      throw new Error(`${video.name}: this browser cannot play it (${error.message}); MP4 (H.264) or WebM works`);
    }
    return;
  }
  if (!recording) keep([]);
  for (const file of photos) {
    let picture;
    try {
      picture = await createImageBitmap(file);
    } catch {
      throw new Error(`${file.name} is not a picture that this browser can read; give a JPEG or PNG`);
    }
    choose({ kind: "photo", name: file.name, picture, width: picture.width, height: picture.height });
    await still(true);
  }
}

async function sceneFrame(context) {
  const [width, height] = choices.scene;
  const answer = await ask(`/try/scene?seed=7&ms=${Math.round(performance.now())}`);
  const bytes = new Uint8Array(await answer.arrayBuffer()), image = context.createImageData(width, height);
  for (let from = 0, to = 0; from < bytes.length; from += 3, to += 4) {
    image.data[to] = bytes[from];
    image.data[to + 1] = bytes[from + 1];
    image.data[to + 2] = bytes[from + 2];
    image.data[to + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}

// -- frames ---------------------------------------------------------------------------------------------------

const canvasOf = (width, height) => Object.assign(document.createElement("canvas"), { width, height });
const shots = [], small = canvasOf(1, 1);

/** The source's picture now, in a canvas of its own until its poses are on it. */
async function shoot() {
  const most = Math.min(1, 1280 / Math.max(source.width, source.height));
  const width = Math.round(source.width * most), height = Math.round(source.height * most);
  const shot = shots.pop() ?? canvasOf(1, 1);
  if (shot.width !== width || shot.height !== height) [shot.width, shot.height] = [width, height];
  const context = shot.getContext("2d");
  if (source.kind === "scene") {
    await sceneFrame(context);
    return shot;
  }
  context.save();
  if (source.kind === "camera" && at("mirror").checked) { context.translate(width, 0); context.scale(-1, 1); }
  context.drawImage(source.video ?? source.picture, 0, 0, width, height);
  context.restore();
  return shot;
}

function rgbOf(shot, width, height) {
  if (small.width !== width || small.height !== height) [small.width, small.height] = [width, height];
  const context = small.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.drawImage(shot, 0, 0, width, height);
  const { data } = context.getImageData(0, 0, width, height), bytes = new Uint8Array(3 * width * height);
  for (let from = 0, to = 0; from < data.length; from += 4) {
    bytes[to++] = data[from];
    bytes[to++] = data[from + 1];
    bytes[to++] = data[from + 2];
  }
  return bytes;
}

/** One frame through all panels; false while a network is not ready. */
async function frame(of, isStill, toKeep) {
  const shot = await shoot();
  if (of !== generation) return true;
  const number = ++sent, name = source.name, time = source.video ? Math.round(1000 * source.video.currentTime) : Math.round(performance.now());
  let ready = true;
  await Promise.all(panels.map(async (panel, index) => {
    const [width, height] = panel.wanted(isStill);
    const answer = await json(`/try/frame?${panel.query(width, height, isStill)}`, { method: "POST", body: rgbOf(shot, width, height) });
    if (of !== generation || number < panel.shownNumber) return;
    panel.say(answer.wait ? `${panel.network.value}: ${answer.wait} …` : "");
    if (answer.wait) { ready = false; return; }
    panel.shownNumber = number;
    const scale = shot.width / width;
    panel.show(answer, shot, scale, isStill);
    if (toKeep || (recording && !isStill)) add(answer, index, { name, number, time, shot, scale, isStill });
  }));
  shots.push(shot);
  return ready;
}

async function still(toKeep = false) {
  const of = generation;
  while (source && of === generation && !await frame(of, true, toKeep)) await new Promise(done => setTimeout(done, 400));
}

/** A photo is looked at again whenever a setting changes. */
function again() {
  for (const [name, unit] of [["people", ""], ["threshold", " %"]]) at(name + "-is").textContent = at(name).value + unit;
  if (source?.kind === "photo") guarded(() => still());
}

async function live(of) {
  if (of !== generation || !source) return;
  const isNew = !source.video || source.video.currentTime !== lastTime;
  if (flying < IN_FLIGHT && isNew) {
    lastTime = source.video?.currentTime;
    flying += 1;
    frame(of, false).then(async ready => {
      if (!ready) await new Promise(done => setTimeout(done, 400));
      if (ready) alertLine();
    }, error => {
      if (of !== generation) return;
      choose(null);
      alertLine(error.message);
    }).finally(() => { if (of === generation) flying -= 1; });
  }
  requestAnimationFrame(() => live(of));
}

// -- keeping --------------------------------------------------------------------------------------------------

function add(answer, panel, { name, number, time, shot, scale, isStill }) {
  const round = value => Math.round(100 * value) / 100;
  const label = panels.length > 1 ? { network: answer.network } : {};
  kept.push({
    image: name, ...(isStill ? {} : { frame: number, time_ms: time }), ...label, size: [shot.width, shot.height],
    poses: answer.poses.map(pose => ({
      id: pose.id, score: pose.score,
      keypoints: pose.keypoints.map(([x, y, score], index) => ({ name: choices.keypoints[index], x: round(x * scale), y: round(y * scale), score })),
    })),
  });
  if (isStill) keep(kept);
  else if (kept.length >= MOST_KEPT) record();
}

function keep(results) {
  kept = results;
  at("kept").hidden = !kept.length;
  if (!kept.length) return;
  const people = kept.reduce((sum, entry) => sum + entry.poses.length, 0);
  at("kept-what").textContent = `Kept: ${kept.length} ${kept.length === 1 ? "picture" : "pictures"}, ${people} ${people === 1 ? "pose" : "poses"}. Save as`;
  downloads(at("kept-links"), kept, choices, video);
}

function record() {
  if (recording) {
    const { recorder } = recording;
    recording = null;
    at("record").textContent = "Record";
    at("record").setAttribute("aria-pressed", "false");
    if (recorder) recorder.stop(); else keep(kept);
    return;
  }
  if (!source || source.kind === "photo") throw new Error("there is nothing to record: choose camera, video or rendered people first");
  kept = [];
  video = null;
  const chunks = [];
  let recorder = null;
  if (window.MediaRecorder && panels[0].canvas.captureStream) {
    recorder = new MediaRecorder(panels[0].canvas.captureStream(30), { mimeType: "video/webm" });
    recorder.ondataavailable = event => chunks.push(event.data);
    recorder.onstop = () => { video = new Blob(chunks, { type: "video/webm" }); keep(kept); };
    recorder.start(1000);
  }
  recording = { recorder };
  at("record").textContent = "Stop recording";
  at("record").setAttribute("aria-pressed", "true");
  at("kept").hidden = true;
}

function snapshot() {
  panels.forEach((panel, index) => panel.canvas.toBlob(blob => save(blob, `pose${index ? "-2" : ""}.png`)));
}

// -- start ----------------------------------------------------------------------------------------------------

at("mount").append(...choices.mounts.map(mount => new Option(mount ? `turned ${mount}°` : "upright", mount)));
at("heat").append(...choices.keypoints.map((name, index) => new Option(`heatmap and offsets of ${name}`, index)));
at("people").value = choices.people;
at("threshold").value = choices.threshold;
panels.push(new Panel(0));
again();
for (const id of ["people", "threshold"]) at(id).addEventListener("input", again);
for (const id of ["mount", "heat", "framing", "track"]) at(id).addEventListener("change", again);
at("compare").addEventListener("change", () => {
  if (at("compare").checked) panels.push(new Panel(1));
  else panels.pop().root.remove();
  again();
});
at("use-camera").addEventListener("click", () => guarded(camera));
at("use-scene").addEventListener("click", () => guarded(async () => {
  const [width, height] = choices.scene;
  choose({ kind: "scene", name: "scene", width, height });
}));
at("use-file").addEventListener("click", () => at("file").click());
at("file").addEventListener("change", () => guarded(async () => {
  const chosen = [...at("file").files];
  at("file").value = "";
  await files(chosen);
}));
at("stop").addEventListener("click", () => { if (recording) record(); choose(null); });
at("record").addEventListener("click", () => guarded(async () => record()));
at("snapshot").addEventListener("click", snapshot);
for (const kind of ["dragover", "dragleave", "drop"]) {
  at("try").addEventListener(kind, event => {
    event.preventDefault();
    at("try").classList.toggle("dropping", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files.length) guarded(() => files(event.dataTransfer.files));
  });
}
