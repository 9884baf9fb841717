#include "sluice/stream/inspect.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <set>
#include <utility>

#include "sluice/stream/checkpoint_directory.h"
#include "sluice/stream/owed.h"
#include "sluice/stream/state_chain.h"

namespace sluice::detail {
namespace {

// What a live stream replaces while it is read is read again so often.
constexpr int looks_max = 5;

std::string text_of(Time time) {
  return fmt::format("{} ({:%F %T}Z)", to_milliseconds(time), std::chrono::time_point_cast<std::chrono::seconds>(time));
}

std::string bytes_text(std::uint64_t bytes) {
  constexpr std::uint64_t kib = 1024;
  if (bytes < 10 * kib) return fmt::format("{} bytes", bytes);
  if (bytes < 10 * kib * kib) return fmt::format("{} KiB", bytes / kib);
  return fmt::format("{} MiB", bytes / kib / kib);
}

std::uint64_t bytes_of(const StateSnapshot& snapshot) {
  std::uint64_t bytes = 0;
  for (const SnapshotFile& file : snapshot.files) bytes += file.bytes;
  return bytes;
}

std::uint64_t bytes_of(const Manifest& manifest) {
  std::uint64_t bytes = 0;
  for (const StateFileInfo& file : manifest.chain) bytes += file.bytes;
  for (const StateSnapshot& snapshot : manifest.snapshots) bytes += bytes_of(snapshot);
  return bytes;
}

std::size_t files_of(const Manifest& manifest) {
  std::size_t files = manifest.chain.size();
  for (const StateSnapshot& snapshot : manifest.snapshots) files += snapshot.files.size();
  return files;
}

// Memory and time: those of reading all of it.
void read_all(FileSystem& files, const std::string& directory, const Manifest& manifest) {
  StateChain chain(files, directory, manifest);
  for (std::size_t index = 0; index < manifest.operators.size(); ++index) {
    for (const auto& [group, blocks] : chain.groups(index)) chain.read_group(index, blocks);
  }
  for (const StateSnapshot& snapshot : manifest.snapshots) check_snapshot(files, directory, snapshot, true);
}

CheckpointFormat format_of(FileSystem& files, const std::string& directory) {
  std::optional<CheckpointFormat> format = read_checkpoint_format(files, directory);
  if (!format.has_value()) throw Error(Code::not_readable, {.why = directory + " is no checkpoint directory"});
  return *std::move(format);
}

// Calls f(paths of manifests); again when what it reads is gone or replaced meanwhile.
template <class F>
auto while_it_stays(FileSystem& files, const std::string& directory, const F& f) {
  for (int look = 1;; ++look) {
    try {
      return f(list_manifests(files, directory));
    } catch (const Error& error) {
      if (look == looks_max || !is_damage(error)) throw;
    }
  }
}

std::string path_of(const std::vector<std::string>& listed, const std::string& directory, long long batch) {
  // Names are "checkpoint-TIME-EPOCH".
  const auto before_epoch = [](std::string_view name) { return name.substr(0, name.find_last_of('-')); };
  const std::string wanted = manifest_name(Time(std::chrono::milliseconds(batch)), 0);
  for (const std::string& path : listed) {
    if (batch == 0 || before_epoch(base_name(path)) == before_epoch(wanted)) return path;
  }
  throw Error(Code::no_readable_checkpoint,
              {.why = batch == 0 ? directory + " has no checkpoint"
                                 : fmt::format("{} has no checkpoint of batch {} ms", directory, batch)});
}

void add_journal(const JournalContent& journal, std::string& text) {
  if (journal.empty) {
    text += "journal: empty\n";
    return;
  }
  const auto complete = static_cast<std::size_t>(std::count_if(
      journal.batches.begin(), journal.batches.end(), [](const auto& batch) { return batch.second.complete; }));
  text += fmt::format("journal: {} batches, {} of them not complete; interval {}\n", journal.batches.size(),
                      journal.batches.size() - complete, to_string(journal.interval));
  if (!journal.batches.empty()) {
    text += "  first " + text_of(journal.batches.begin()->first) + ", last " +
            text_of(journal.batches.rbegin()->first) + "\n";
  }
  for (const auto& [input, blocks] : journal.blocks) {
    std::uint64_t bytes = 0;
    for (const auto& [number, block] : blocks) bytes += block.bytes;
    text += fmt::format("  input {}: {} blocks, {}\n", input, blocks.size(), bytes_text(bytes));
  }
  if (journal.log.torn_bytes > 0) {
    text += fmt::format("  {} at its end never became durable, and do not count\n", bytes_text(journal.log.torn_bytes));
  }
  for (const OwedOutput& owed : journal.owed) {
    text += "  owed: output " + owed.output + " of batch " + text_of(owed.time) + "\n";
  }
}

}  // namespace

std::string list_checkpoints(FileSystem& files, const std::string& directory) {
  const CheckpointFormat format = format_of(files, directory);
  return while_it_stays(files, directory, [&](const std::vector<std::string>& listed) {
    std::string text =
        fmt::format("application {}, {} key groups, hash seed {}\n", format.app, format.key_groups, format.hash_seed);
    if (const std::vector<std::uint64_t> epochs = list_epochs(files, directory); !epochs.empty()) {
      text += fmt::format("runs: {}\n", epochs.back());
    }
    for (const std::string& path : listed) {
      try {
        const Manifest manifest = read_manifest(files, path);
        text +=
            fmt::format("checkpoint of batch {}: run {}, {} operators, {} in {} files\n", text_of(manifest.time),
                        manifest.epoch, manifest.operators.size(), bytes_text(bytes_of(manifest)), files_of(manifest));
      } catch (const Error& error) {
        if (!is_damage(error) || !files.stat(path).has_value()) throw;
        text += fmt::format("checkpoint {} is damaged: {}\n", base_name(path), error.details().why);
      }
    }
    if (listed.empty()) text += "no checkpoint\n";
    add_journal(read_journal(files, directory + "/journal"), text);
    return text;
  });
}

std::string show_checkpoint(FileSystem& files, const std::string& directory, long long batch) {
  format_of(files, directory);
  return while_it_stays(files, directory, [&](const std::vector<std::string>& listed) {
    const Manifest manifest = read_manifest(files, path_of(listed, directory, batch));
    std::string text =
        fmt::format("checkpoint of batch {}\napplication {}, run {}, build {:016x}, interval {}\n",
                    text_of(manifest.time), manifest.app, manifest.epoch, manifest.build, to_string(manifest.interval));
    StateChain chain(files, directory, manifest);
    for (std::size_t index = 0; index < manifest.operators.size(); ++index) {
      const CheckpointOperator& op = manifest.operators[index];
      std::uint64_t bytes = 0;
      std::size_t keys = 0;
      for (const auto& [group, blocks] : chain.groups(index)) {
        keys += chain.read_group(index, blocks).size();
        for (const StateChain::Block& block : blocks) bytes += block.bytes;
      }
      for (const StateChain::Block& block : chain.logs(index)) bytes += block.bytes;
      text += fmt::format("operator {}: {}\n", op.name, op.schema.kind);
      if (!op.schema.key.empty()) text += "  key    " + op.schema.key + "\n";
      text += "  value  " + op.schema.value + "\n";
      if (const StateSnapshot* const snapshot = snapshot_of(manifest, index); snapshot != nullptr) {
        check_snapshot(files, directory, *snapshot, false);
        text += fmt::format("  about {} keys in RocksDB, {}, {} partitions\n", snapshot->keys,
                            bytes_text(bytes_of(*snapshot)), op.partitions);
      } else if (op.schema.kind == kept_kind) {
        text += fmt::format("  {} batches, {}\n", chain.logs(index).size(), bytes_text(bytes));
      } else {
        text += fmt::format("  {} keys, {}, {} partitions\n", keys, bytes_text(bytes), op.partitions);
      }
    }
    for (const auto& [input, saved] : manifest.inputs) {
      text += fmt::format("input {}: {}\n", input, bytes_text(saved.size()));
    }
    for (const StateFileInfo& file : manifest.chain) {
      text += fmt::format("file {}: {}, {} blocks{}\n", file.name, bytes_text(file.bytes), file.blocks,
                          file.base ? ", base" : "");
    }
    for (const StateSnapshot& snapshot : manifest.snapshots) {
      text += fmt::format("directory {}: {}, {} files\n", snapshot.directory, bytes_text(bytes_of(snapshot)),
                          snapshot.files.size());
    }
    return text;
  });
}

Verified verify_checkpoints(FileSystem& files, const std::string& directory) {
  format_of(files, directory);
  // A problem counts when it is still there when all is read once more.
  std::optional<Verified> last;
  for (int look = 1;; ++look) {
    Verified found;
    const auto check = [&](const std::string& what, const auto& f) {
      try {
        f();
      } catch (const Error& error) {
        if (!is_damage(error) && error.code() != Code::other_version) throw;
        const std::string& why = error.details().why;
        found.problems.push_back(why.find(what) == std::string::npos ? fmt::format("{}: {}", what, why) : why);
      }
    };
    for (const std::string& path : list_manifests(files, directory)) {
      check(path, [&] {
        read_all(files, directory, read_manifest(files, path));
        ++found.checkpoints;
      });
    }
    check(directory + "/journal", [&] {
      const JournalContent journal = read_journal(files, directory + "/journal");
      found.journal_records = journal.records;
      for (const OwedOutput& owed : journal.owed) {
        const std::string path = directory + "/owed/" + owed_file_name(owed);
        check(path, [&] {
          OwedRecords::read(files, path);
          ++found.owed;
        });
      }
    });
    check(directory + "/wal",
          [&] { read_log(files, directory + "/wal", 0, [&](const LogHandle&, std::string_view) { ++found.blocks; }); });
    const bool same = last.has_value() && last->problems == found.problems;
    if (found.problems.empty() || same || look == looks_max) return found;
    last = std::move(found);
  }
}

void remove_checkpoint(FileSystem& files, const std::string& directory, long long batch) {
  format_of(files, directory);
  const std::vector<std::string> listed = list_manifests(files, directory);
  const std::string path = path_of(listed, directory, batch);
  const bool another = std::any_of(listed.begin(), listed.end(), [&](const std::string& other) {
    if (other == path) return false;
    try {
      read_all(files, directory, read_manifest(files, other));
      return true;
    } catch (const Error& error) {
      if (!is_damage(error)) throw;
      return false;
    }
  });
  if (!another) {
    throw Error(Code::no_readable_checkpoint,
                {.why = path + " stays: no other checkpoint can be read, and the stream could not go on"});
  }
  files.remove(path);
  files.sync_directory(directory);
}

}  // namespace sluice::detail
