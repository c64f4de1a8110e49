// What the page does in the browser beside its framework: pasting, chips, the brush, the slider between two pictures.

(() => {
  const visible = (selector) => [...document.querySelectorAll(selector)].find((one) => one.offsetParent !== null);

  const fill = (holder, text) => {
    const field = document.querySelector(`${holder} textarea, ${holder} input`);
    if (!field) return;
    const kind = field.tagName === "TEXTAREA" ? HTMLTextAreaElement : HTMLInputElement;
    Object.getOwnPropertyDescriptor(kind.prototype, "value").set.call(field, text);
    field.dispatchEvent(new Event("input", { bubbles: true }));
    field.dispatchEvent(new Event("change", { bubbles: true }));
    field.focus();
  };

  // A picture from the clipboard, or one that is dropped, goes where a chosen one would.
  const take = (files) => {
    const place = visible(".drop");
    const input = place?.querySelector("input[type=file]");
    if (!files.length || !input) return;
    const transfer = new DataTransfer();
    (input.multiple ? files : files.slice(0, 1)).forEach((file) => transfer.items.add(file));
    input.files = transfer.files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
  };
  document.addEventListener("paste", (event) => {
    take([...(event.clipboardData?.files ?? [])].filter((file) => file.type.startsWith("image/")));
  });
  const over = (event, on) => {
    event.preventDefault();
    visible(".drop")?.classList.toggle("over", on);
  };
  document.addEventListener("dragover", (event) => over(event, true));
  document.addEventListener("dragleave", (event) => over(event, false));
  document.addEventListener("drop", (event) => {
    over(event, false);
    take([...(event.dataTransfer?.files ?? [])]);
  });

  document.addEventListener("click", (event) => {
    const chip = event.target.closest("[data-fill], [data-add], [data-without], [data-press], [data-clear], [data-choose]");
    if (!chip || event.target.closest("a")) return;
    if (chip.dataset.only !== undefined) fill(chip.dataset.only, "1");
    if (chip.dataset.fill !== undefined) fill(chip.dataset.into, chip.dataset.fill);
    if (chip.dataset.choose !== undefined) fill(chip.dataset.into, chip.dataset.choose);
    if (chip.dataset.add !== undefined) {
      const field = document.querySelector(`${chip.dataset.into} textarea, ${chip.dataset.into} input`);
      const text = field.value.trimEnd();
      const known = text.includes(chip.dataset.add);
      fill(chip.dataset.into, known ? text : text ? `${text} ${chip.dataset.add}` : `a photo of ${chip.dataset.add}`);
    }
    if (chip.dataset.without !== undefined) {
      const field = document.querySelector(`${chip.dataset.into} textarea, ${chip.dataset.into} input`);
      const place = [...chip.parentElement.querySelectorAll("[data-without]")].indexOf(chip);
      fill(chip.dataset.into, field.value.trim().split(/\s+/).filter((_, index) => index !== place).join(" "));
    }
    if (chip.dataset.press !== undefined) document.querySelector(chip.dataset.press)?.click();
    if (chip.dataset.clear !== undefined) {
      const canvas = chip.closest(".brush").querySelector("canvas");
      canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
      delete canvas.dataset.painted;
    }
  });

  // The slider between two pictures.
  document.addEventListener("input", (event) => {
    if (event.target.matches(".compare input")) {
      event.target.closest(".compare").style.setProperty("--share", `${event.target.value}%`);
    }
  });

  // The brush. Where nothing is painted there is no mask.
  let painting = null;
  const point = (canvas, event) => {
    const box = canvas.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * canvas.width, ((event.clientY - box.top) / box.height) * canvas.height];
  };
  const stroke = (canvas, event) => {
    const [x, y] = point(canvas, event);
    const brush = canvas.getContext("2d");
    brush.strokeStyle = "#e6007a";
    brush.lineCap = brush.lineJoin = "round";
    brush.lineWidth = (Number(canvas.closest(".brush").querySelector("input[type=range]").value) / 100) * canvas.width;
    brush.beginPath();
    brush.moveTo(...(painting ?? [x, y]));
    brush.lineTo(x + 0.01, y);
    brush.stroke();
    painting = [x, y];
    canvas.dataset.painted = "yes";
  };
  document.addEventListener("pointerdown", (event) => {
    if (!event.target.matches(".brush canvas")) return;
    event.target.setPointerCapture(event.pointerId);
    painting = null;
    stroke(event.target, event);
  });
  document.addEventListener("pointermove", (event) => {
    if (event.target.matches(".brush canvas") && event.buttons && painting) stroke(event.target, event);
  });
  document.addEventListener("pointerup", () => { painting = null; });

  // What is painted, white on black, as the address of a small PNG; "" if nothing is.
  window.sentinvMask = (name) => {
    const canvas = document.querySelector(`.brush[data-name="${name}"] canvas`);
    if (!canvas || !canvas.dataset.painted) return "";
    const mask = document.createElement("canvas");
    [mask.width, mask.height] = [canvas.width, canvas.height];
    const context = mask.getContext("2d");
    const fillAll = (colour, how) => {
      context.globalCompositeOperation = how;
      context.fillStyle = colour;
      context.fillRect(0, 0, mask.width, mask.height);
    };
    context.drawImage(canvas, 0, 0);
    fillAll("#fff", "source-in");
    fillAll("#000", "destination-over");
    return mask.toDataURL("image/png");
  };
})();
