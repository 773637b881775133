#!/usr/bin/env python3
"""Writes a source file of the library with one mistake planted in it.

usage: canaries.py NAME ROOT OUT

NAME is one of CANARIES, ROOT the repository, OUT the file to write. Exits with 1 when the source no longer holds
exactly once what the mistake replaces: then the canary must be planted anew.
"""

import sys
from pathlib import Path

# name: (file, [(what stands there, what the mistake makes of it), ...])
CANARIES = {
    "checksum_skipped": ("offload/mover_loads.cc", [
        ("entry.value_param) != entry.checksum) return false;", "entry.value_param) == 0) return false;")]),
    "published_early": ("offload/mover_loads.cc", [
        ("if (--load.reads_left > 0) return;", "--load.reads_left;")]),
    "staging_reused": ("offload/mover_loads.cc", [
        ("if (--load.releases_left == 0) load_finished_.notify_all();", "load_finished_.notify_all();"),
        ("if (completion.event == CompletionEvent::kExpired) ++load.releases_left;", "")]),
    "part_promoted": ("offload/mover_loads.cc", [
        ("    if ((load.partial >> i & 1U) != 0) continue;\n", "")]),
    "part_unproven": ("offload/mover_loads.cc", [
        ("if (--load.unproven[piece.page] == 0) load.bytes", "--load.unproven[piece.page];\n  load.bytes")]),
    "head_forgotten": ("kvcache/attend_select.cc", [
        ("(std::countr_zero(left))] |= head_bit", "(std::countr_zero(left))] = head_bit")]),
    "guess_taken_for_all": ("kvcache/page_reader.cc", [
        ("if (run->heads[i] == 0) continue;", "if (run->heads[i] == 0 || run->early_heads[i] != 0) continue;")]),
    "no_space_is_success": ("offload/mover_writes.cc", [
        ("const bool ok = code == StatusCode::kOk;", "const bool ok = code == StatusCode::kOk || os_error == ENOSPC;")]),
    "late_buffer_reused": ("offload/mover_writes.cc", [
        ("write.busy = completion.event == CompletionEvent::kExpired;", "write.busy = false;")]),
    "hung_write_waited_for": ("offload/mover_writes.cc", [
        ("[](const Write& w) { return w.pages.empty(); }", "[](const Write& w) { return !w.busy; }")]),
    "serial_unchecked": ("offload/nvme_tier.cc", [
        ("return request.active && request.id() == id ? &request", "return request.active ? &request")]),
    "deadline_ignored": ("offload/nvme_tier.cc", [
        ("clock_.now() + deadline_}", "kNoDeadline}")]),
    "late_extent_freed": ("offload/nvme_tier.cc", [
        ("    request->expired = true;\n  } else {\n    if (kind != Request::Kind::kGet) table_",
         "    request->expired = true;\n    if (kind != Request::Kind::kGet) table_.end_write(request->first.extent);\n"
         "  } else {\n    if (kind != Request::Kind::kGet && !late) table_")]),
    "space_never_freed": ("offload/mover.cc", [
        ("  tier_->drop({&place, 1});\n", "  static_cast<void>(place);\n")]),
    "fork_without_reference": ("kvcache/residency.cc", [
        ("    ++page->refs;\n", "")]),
    "unpin_lost": ("kvcache/page_reader.cc", [
        ("if ((run->pinned >> i & 1U) != 0) residency.unpin", "if ((run->pinned >> i & 1U) != 0 && i != 3) residency.unpin")]),
    "truncated_too_little": ("kvcache/sequence.cc", [
        ("truncate_table(lock, layer.table, tail_page);", "truncate_table(lock, layer.table, tail_page + 1);")]),
    "undone_in_one_sequence": ("kvcache/cache.cc", [
        ("if (!entry.replay) undo_step(context_, entry.sequence, entry.first);",
         "if (!entry.replay) return undo_step(context_, entry.sequence, entry.first);")]),
    "headers_unbudgeted": ("offload/mover_writes.cc", [
        ("take(bytes + padding + room.header_bytes)", "take(bytes + padding)")]),
    "store_checksum_skipped": ("offload/persistent_store.cc", [
        ("== header->checksums[i];", "!= 0;")]),
    "store_tokens_uncompared": ("offload/persistent_store.cc", [
        ("!std::ranges::equal(header->tokens, tokens) || ", "header->tokens.size() != tokens.size() || ")]),
    "store_tenants_mixed": ("offload/persistent_store.cc", [
        ("header->scope != chain.scope ||", "header->scope.layout != chain.scope.layout ||")]),
    "store_header_first": ("offload/persistent_store.cc", [
        ("  if (Status status = file_->write(shape().data_offset(header.slot), bytes); !status.ok()) return status;\n", ""),
        ("  return file_->write(shape().header_offset(header.slot), block);\n",
         "  if (Status status = file_->write(shape().header_offset(header.slot), block); !status.ok()) return status;\n"
         "  return file_->write(shape().data_offset(header.slot), bytes);\n")]),
    "store_sync_forgotten": ("offload/persistent_store.cc", [
        ("  Status status = file_->sync();\n  unsynced_", "  Status status;\n  unsynced_")]),
    "store_eviction_of_its_own": ("offload/persistent_store.cc", [
        ("if (victim == kNoSlot || (!first && victim == before.slot)) {", "if (victim == kNoSlot || (!first && before.serial == 0)) {")]),
}


def plant(name, root, out):
    file, edits = CANARIES[name]
    text = (root / file).read_text(encoding="utf-8")
    for old, new in edits:
        if text.count(old) != 1:
            return f"canary {name}: {file} does not hold exactly once: {old.strip()}"
        text = text.replace(old, new)
    out.write_text(text, encoding="utf-8")
    return None


def main(arguments):
    if len(arguments) != 3 or arguments[0] not in CANARIES:
        print(__doc__, file=sys.stderr)
        print("names: " + ", ".join(CANARIES), file=sys.stderr)
        return 2
    fault = plant(arguments[0], Path(arguments[1]), Path(arguments[2]))
    if fault:
        print(fault, file=sys.stderr)
    return 1 if fault else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
