// Updates the page every two seconds, with the DataTables of Flower. A hidden tab does not update.
// Each text from the data passes through `text` or textContent, which escape it.
(function () {
    "use strict";

    const INTERVAL = 2000;  // ms between two updates
    const TIMEOUT = 10000;  // ms for an answer
    const ROWS = 50;  // of a table on one page

    const page = document.getElementById("minsched");
    const {source, pages, actions, refresh} = page.dataset;
    const tables = new Map();
    let timer = 0;
    let updates = 0;

    // ---- cells ----

    const text = (value) => String(value).replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);
    const missing = '<span class="value-missing">—</span>';
    const link = (to, of, shown) =>
        `<a href="${text(pages + to)}?of=${encodeURIComponent(of)}">${text(shown)}</a>`;
    const node = (id) => `<span class="${id.length > 12 ? "" : "text-nowrap"}">${link("node", id, id)}</span>`;
    const badge = (state) => `<span class="badge" data-state="${text(state)}">${text(state)}</span>`;
    const names = (list) => list.map((name) => `<span class="minsched-tag">${text(name)}</span>`).join(" ");

    function age(seconds) {
        const s = Number(seconds), part = (n, unit) => (n ? ` ${n} ${unit}` : "");
        if (s < 60) { return `${s} s`; }
        if (s < 3600) { return `${Math.floor(s / 60)} min${part(s % 60, "s")}`; }
        return `${Math.floor(s / 3600)} h${part(Math.floor(s % 3600 / 60), "min")}`;
    }

    const ago = (seconds) => `${age(seconds).split(" ", 2).join(" ")} ago`;  // only the largest unit

    function slots(row) {
        const share = row.slots ? Math.min(row.taken / row.slots, 1) * 100 : 0;
        return `<div class="minsched-slots"><span class="minsched-bar${share >= 100 ? " full" : ""}">` +
            `<i style="width:${share}%"></i></span><span>${Number(row.taken)} / ${Number(row.slots)}</span></div>`;
    }

    function load(row) {
        const bars = Object.entries(row.load).map(([name, percent]) =>
            `<span class="minsched-load"><span>${text(name)}</span> <span class="minsched-bar"><i style="width:` +
            `${Math.min(Number(percent), 100)}%"></i></span> <span>${Number(percent)} %</span></span>`);
        return bars.join(" ") || missing;
    }

    // ---- columns: `show` makes the cell, `by` its sort key if that differs ----

    const natural = (id) => String(id).replace(/\d+/g, (digits) => digits.padStart(12, "0"));

    function column(title, show, by, className) {
        return {
            title,
            className: className || "",
            data: null,
            render: (row, type) => {
                if (type === "display") { return show(row); }
                return type === "sort" || type === "type" ? (by || show)(row) : show(row).replace(/<[^>]*>/g, " ");
            }
        };
    }

    // A column of a paged table. The server sorts the rows by the column's name.
    const named = (name, title, show, className) => ({...column(title, show, null, className), name});

    const wide = "minsched-wide";
    const share = (row) => (row.slots ? row.taken / row.slots : 0);
    const sum = (row) => Object.values(row.load).reduce((all, x) => all + x, 0);
    const nodeColumn = {...column("Node", (row) => node(row.id), (row) => natural(row.id), "minsched-id"), name: "node"};
    const stateColumn = named("state", "State", (row) => badge(row.state));
    const slotsColumn = {...column("Slots", slots, share, "minsched-slots-cell"), name: "slots"};
    const loadColumn = {...column("Load", load, sum, wide), name: "load"};
    const taskColumn = column("Task", (row) => `${row.task ? text(row.task) : missing} <span class="minsched-task-id">` +
        `${row.task_id ? link("why", row.task_id, row.task_id) : ""}</span>`, null, "minsched-id");
    const act = (action, of, title) => `<button type="button" class="btn btn-sm btn-outline-secondary" ` +
        `data-action="${action}" data-of="${text(of)}">${title}</button>`;
    const action = (show) => (actions ? [{...column("", show, null, "text-end"), orderable: false}] : []);

    // The server names the fields that describe a node.
    const described = page.querySelector("[data-description]");
    const description = Object.entries(JSON.parse(described ? described.dataset.description : "{}"));

    const COLUMNS = {
        nodes: [
            nodeColumn, stateColumn, slotsColumn, loadColumn,
            ...description.map(([name, title]) => named(name, title, (row) => names(row.description[name]), wide)),
            named("heard", "Heard", (row) => (row.silent < 3 ? "now" : ago(row.silent)), "text-nowrap " + wide),
            ...action((row) => (row.state === "draining" ? act("undrain", row.id, "Undrain")
                : ["free", "full"].includes(row.state) ? act("drain", row.id, "Drain") : ""))
        ],
        pools: [
            named("pool", "Pool", (row) => text(row.id), "minsched-id"),
            stateColumn, slotsColumn,
            named("waiting", "Waiting", (row) => row.waiting.toLocaleString(), "text-end"),
            named("load", "Load", (row) => row.load.toFixed(2), "text-end " + wide),
            named("online", "Nodes online", (row) => `${row.online} / ${row.nodes}`, "text-end " + wide),
            named("languages", "Languages", (row) => names(row.langs), wide),
            ...action((row) => (row.state === "paused" ? act("resume", row.id, "Resume") : act("pause", row.id, "Pause")))
        ],
        lines: [
            named("line", "Waits for", (row) => text(row.asks_for), "minsched-id"),
            stateColumn,
            named("jobs", "Jobs", (row) => row.waiting.toLocaleString(), "text-end"),
            named("oldest", "Oldest", (row) => age(row.age), "text-end")
        ],
        jobs: [
            taskColumn,
            column("Waits for", (row) => text(row.asks_for), null, "minsched-id " + wide),
            column("Place", (row) => row.place.toLocaleString(), (row) => row.place, "text-end"),
            column("Waits", (row) => age(row.age), (row) => row.age, "text-end"),
            column("Session", (row) => (row.session ? text(row.session) : missing), null, "minsched-id " + wide)
        ],
        held: [
            taskColumn,
            column("State", (row) => badge(row.state)),
            column("For", (row) => age(row.age), (row) => row.age, "text-end"),
            column("Session", (row) => (row.session ? text(row.session) : missing), null, "minsched-id " + wide)
        ],
        events: [
            column("When", (row) => `<time title="${new Date(row.ts).toISOString()}">${ago(row.age)}</time>`,
                (row) => -row.ts, "text-nowrap"),
            column("What", (row) => `<span class="badge" data-state="${text(row.state)}">` +
                `${text(row.state.replace("_", " "))}</span>`),
            column("Of", (row) => Object.entries(row.fields).map(([name, value]) =>
                `<span class="minsched-field">${text(name.replace("_ts", "").replace("_", " "))}</span> ` +
                (name === "node" || name === "from" ? node(value)
                    : name === "task" && value ? link("why", value, value)
                    : name.endsWith("_ts") ? new Date(Number(value)).toLocaleTimeString()
                    : text(value))).join(" "), null, "minsched-id")
        ],
        candidates: [
            nodeColumn,
            column("Obstacle", (row) => (row.fits ? badge("nothing") : text(row.state)), null, "minsched-id"),
            slotsColumn, loadColumn
        ]
    };
    const ORDER = {nodes: [[1, "asc"], [0, "asc"]], pools: [[0, "asc"]], lines: [[3, "desc"]]};

    // DataTables reads some data attributes as its own options. These attributes have other names.
    function makeTable(element) {
        const name = element.dataset.table, searches = "find" in element.dataset;
        const table = {shown: "", request: null, deliver: null, answer: null};
        tables.set(name, table);
        table.api = $(element).DataTable({
            columns: COLUMNS[element.dataset.as || name],
            order: ORDER[name] || [],
            autoWidth: false,
            deferRender: true,
            lengthChange: false,
            pageLength: ROWS,
            searching: searches,
            searchDelay: 300,
            dom: searches ? "ftip" : "tip",
            ...("paged" in element.dataset ? {serverSide: true, ajax: (...request) => requestRows(table, ...request)} : {}),
            language: {
                info: "_START_ to _END_ of _TOTAL_",
                infoEmpty: "",
                infoFiltered: "(of _MAX_ in all)",
                search: `<span class="visually-hidden">${text(element.dataset.find || "")}</span>`,
                searchPlaceholder: element.dataset.hint || "",
                emptyTable: '<span class="minsched-loading">…</span>',
                zeroRecords: "Nothing matches."
            },
            drawCallback: function () {
                const {recordsTotal, length} = this.api().page.info();
                $(this).closest(".dataTables_wrapper").toggleClass("minsched-one-page", recordsTotal <= length);
            }
        });
    }

    // ---- paging: DataTables requests rows, and the next update delivers them ----

    function requestRows(table, request, deliver) {
        table.request = request;
        table.deliver = deliver;
        if (table.answer) { deliverRows(table); } else if (updates) { update(); }
    }

    function deliverRows(table) {
        const {deliver, answer} = table;
        table.deliver = table.answer = null;
        deliver({...answer, draw: table.request.draw});
    }

    function fillPaged(table, rows, [recordsFiltered, recordsTotal]) {
        const now = JSON.stringify([rows, recordsFiltered, recordsTotal]);
        if (now === table.shown && !table.deliver) { return; }
        table.shown = now;
        table.answer = {data: rows, recordsFiltered, recordsTotal};
        if (table.deliver) {
            deliverRows(table);
        } else {
            table.api.draw(false);
        }
        if (!rows.length && recordsFiltered && table.request.start) {  // the page does not exist any more
            table.api.page("first").draw("page");
        }
    }

    function query() {
        const request = [...tables.values()].map((table) => table.request).find(Boolean);
        if (!request) { return ""; }
        const {columns, order: [by], search, start, length} = request;
        return "&" + new URLSearchParams({
            offset: start, limit: length, find: search.value,
            ...(by ? {sort: columns[by.column].name, descending: by.dir === "desc" ? 1 : 0} : {})
        });
    }

    // ---- filling ----

    const FORMATS = {
        age: (element, value) => { element.textContent = age(value); },
        ago: (element, value) => { element.textContent = ago(value); },
        state: (element, value) => { element.textContent = value; element.dataset.state = value; },
        node: (element, value) => { element.innerHTML = value ? node(value) : ""; }
    };

    function fill(answer) {
        Object.entries(answer.texts || {}).forEach(([name, value]) => {
            page.querySelectorAll(`[data-text="${name}"]`).forEach((element) => {
                const format = FORMATS[element.dataset.form];
                if (format) { format(element, value); } else { element.textContent = value === "" ? "—" : value; }
                const row = element.closest(".detail-row");
                if (row) { row.hidden = value === ""; }
            });
        });
        Object.entries(answer.lists || {}).forEach(([name, sentences]) => {
            const list = page.querySelector(`[data-list="${name}"]`);
            list.replaceChildren(...sentences.map((sentence) =>
                Object.assign(document.createElement("li"), {textContent: sentence})));
        });
        tables.forEach((table, name) => {
            const rows = (answer.tables || {})[name] || [], numbers = (answer.numbers || {})[name];
            const focused = document.activeElement.dataset;
            table.api.settings()[0].oLanguage.sEmptyTable = text(table.api.table().node().dataset.none);
            if (numbers) { fillPaged(table, rows, numbers); } else { fillTable(table, rows); }
            keepFocus(focused);
        });
    }

    function fillTable(table, rows) {
        const now = JSON.stringify(rows);
        if (now === table.shown) { return; }
        table.shown = now;
        table.api.clear().rows.add(rows);
        table.api.draw(false);
    }

    function keepFocus(focused) {
        if (focused.action && !document.activeElement.dataset.action) {  // keep the keyboard on the same button
            page.querySelector(`[data-action="${focused.action}"][data-of="${CSS.escape(focused.of)}"]`)?.focus();
        }
    }

    function showStatus(works, status, error) {
        document.getElementById("minsched-dot").className =
            `status-dot status-dot-${works ? "live" : "error"}`;
        document.getElementById("minsched-status").textContent = status;
        const element = document.getElementById("minsched-error");
        element.hidden = !error;
        element.textContent = error || "";
    }

    // fetch refuses an address with a password, and the page's own address can have one.
    const at = (path) => new URL(path, window.location.origin).href;

    async function update() {
        window.clearTimeout(timer);
        timer = 0;
        const number = ++updates;
        try {
            const answer = await fetch(at(source + query()), {
                headers: {Accept: "application/json"},
                signal: AbortSignal.timeout(TIMEOUT)
            });
            if (number !== updates) { return; }  // a newer update requests other rows
            if (!(answer.headers.get("Content-Type") || "").startsWith("application/json")) {
                showStatus(false, "Update failed", `Flower answered ${answer.status}. Reload the page.`);
            } else if (!answer.ok) {
                showStatus(false, "Update failed", (await answer.json()).error);
            } else if (!document.getSelection().isCollapsed && ![...tables.values()].some((table) => table.deliver)) {
                showStatus(true, "Paused while text is selected");
            } else {
                fill(await answer.json());
                showStatus(true, `Updated ${new Date().toLocaleTimeString()}`);
            }
        } catch (error) {
            if (number !== updates) { return; }
            showStatus(false, "Update failed", "Flower does not answer. Check that it runs and that you are logged in.");
        }
        scheduleUpdate();
    }

    function scheduleUpdate() {
        if (refresh === "1" && !document.hidden && !timer) {
            timer = window.setTimeout(update, INTERVAL);
        }
    }

    document.addEventListener("visibilitychange", () => {
        window.clearTimeout(timer);
        timer = 0;
        if (!document.hidden && refresh === "1") { update(); }
    });

    // Flower's script makes $.ajax send the token that protects against other sites.
    page.addEventListener("click", (event) => {
        const {action, of} = event.target.dataset;
        if (!action) { return; }
        $.ajax({type: "POST", url: at(actions + action), data: {of}})
            .done(update)
            .fail((answer) => showStatus(false, "Refused", answer.responseText || "Flower does not answer."));
    });

    page.querySelectorAll("table[data-table]").forEach(makeTable);
    update();
}());
