// The pages work without this script. It refreshes the numbers of the overview in
// place, so that nothing moves and the focus stays where it is, and selects all changes
// of a list.
"use strict";
document.documentElement.classList.add("js");

const all = document.getElementById("all");
if (all) {
	const boxes = [...document.getElementsByName("id")].filter((box) => box.type === "checkbox");
	all.addEventListener("change", () => boxes.forEach((box) => { box.checked = all.checked; }));
}

const on = document.getElementById("refresh");
const changed = document.getElementById("changed");

async function refresh() {
	if (!on.checked || document.hidden) return;
	let fresh;
	try {
		const response = await fetch("./");
		fresh = new DOMParser().parseFromString(await response.text(), "text/html");
	} catch {}
	if (!fresh || !fresh.querySelector("[data-live=verdict]")) {
		say("The page could not be refreshed.", "Load it again");
		return;
	}
	for (const old of document.querySelectorAll("[data-live]")) {
		const now = fresh.querySelector(`[data-live=${old.dataset.live}]`);
		if (!now) continue;
		if (old.dataset.live === "verdict") old.className = now.className;
		else copy(leaf(now), leaf(old));
	}
	const kind = (page) => ["#why", "#warnings", "#numbers"].map((part) => !page.querySelector(part)).join();
	if (kind(fresh) === kind(document)) say("", "");
	else say("The state has changed.", "Show what is new");
}

const leaf = (element) => element.querySelector("time, a, bdi") || element;

function copy(from, to) {
	if (from.textContent !== to.textContent) to.textContent = from.textContent;
	if (from.dateTime && to.dateTime) to.dateTime = from.dateTime;
}

function say(text, action) {
	if (changed.textContent === [text, action].filter(Boolean).join(" ")) return;
	const link = document.createElement("a");
	link.href = "./";
	link.textContent = action;
	changed.replaceChildren(...(text ? [text + " ", link] : []));
}

if (on) setInterval(refresh, 5000);
