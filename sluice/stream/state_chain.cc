#include "sluice/stream/state_chain.h"

#include <algorithm>
#include <utility>

#include "sluice/core/codec.h"

namespace sluice::detail {
namespace {

std::string_view take_part(Decoder& from, std::uint32_t bytes) { return bytes > 0 ? from.bytes(bytes) : from.text(); }

void put_part(std::string_view part, std::uint32_t bytes, Encoder& out) {
  bytes > 0 ? out.bytes(part) : out.text(part);
}

// Of a log that no slide of the window from `time` on looks back to. Numbers from a file may be any.
bool has_left(std::int64_t batch, std::int64_t time, const StateSchema& schema) {
  const __int128 oldest = static_cast<__int128>(time) - schema.log_length - schema.slide;
  return batch <= oldest;
}

}  // namespace

void KeyGroup::take(std::string_view block) {
  Decoder from(block);
  for (std::uint64_t left = from.varint(); left > 0; --left) {
    const auto found = places_.find(std::string(take_part(from, schema_.key_bytes)));
    if (found == places_.end()) continue;  // came and went between two checkpoints
    entries_[found->second] = {.gone = true};
    places_.erase(found);
  }
  for (std::uint64_t left = from.varint(); left > 0; --left) {
    std::string key(take_part(from, schema_.key_bytes));
    std::string value(take_part(from, schema_.value_bytes));
    const auto [place, is_new] = places_.try_emplace(key, entries_.size());
    if (is_new) {
      entries_.push_back({std::move(key), std::move(value)});
    } else {
      entries_[place->second].value = std::move(value);
    }
  }
  from.expect_end();
}

void KeyGroup::for_each(const std::function<void(std::string_view, std::string_view)>& f) const {
  for (const Entry& entry : entries_) {
    if (!entry.gone) f(entry.key, entry.value);
  }
}

std::string KeyGroup::bytes() const {
  Encoder out;
  out.varint(0);
  out.varint(size());
  for_each([&](std::string_view key, std::string_view value) {
    put_part(key, schema_.key_bytes, out);
    put_part(value, schema_.value_bytes, out);
  });
  return out.take();
}

StateChain::StateChain(FileSystem& files, const std::string& directory, const Manifest& manifest)
    : directory_(directory), manifest_(manifest), groups_(manifest.operators.size()), logs_(manifest.operators.size()) {
  for (std::size_t file = 0; file < manifest.chain.size(); ++file) {
    const std::string path = directory + "/" + manifest.chain[file].name;
    files_.push_back(files.open(path));
    if (files_.back() == nullptr) throw Error(Code::not_readable, {.why = path + ": no such file"});
    scan_state_file(files, directory, manifest.chain[file],
                    [&](const std::vector<CheckpointOperator>& operators, const StateBlockAt& block) {
                      take(file, operators[block.operator_index], block);
                    });
  }
}

void StateChain::take(std::size_t file, const CheckpointOperator& written, const StateBlockAt& block) {
  const bool kept = written.schema.kind == kept_kind;
  const auto known = std::find_if(manifest_.operators.begin(), manifest_.operators.end(), [&](const auto& each) {
    return each.name == written.name && (each.schema.kind == kept_kind) == kept;
  });
  const auto fail = [&](const char* why) {
    throw Error(Code::corrupt_data,
                {.why = directory_ + "/" + manifest_.chain[file].name + " has \"" + written.name + "\", " + why});
  };
  if (known == manifest_.operators.end()) {
    if (kept) return;
    fail("which its checkpoint does not name");
  }
  const StateSchema& schema = known->schema;
  const bool is_log = block.what == StateBlock::What::log;
  const std::int64_t last_batch = known->batch != 0 ? known->batch : manifest_.time.time_since_epoch().count();
  if (is_log && has_left(block.batch, last_batch, schema)) return;
  // How long a window holds what it has may change from run to run.
  const StateSchema& before = written.schema;
  if (before.kind != schema.kind || before.key != schema.key || before.value != schema.value ||
      before.key_bytes != schema.key_bytes || before.value_bytes != schema.value_bytes) {
    fail("with other types than its checkpoint says");
  }
  const auto index = static_cast<std::size_t>(known - manifest_.operators.begin());
  std::vector<Block>& to = is_log ? logs_[index] : groups_[index][block.group];
  to.push_back({file, block.offset, block.bytes.size(), block.group, block.batch});
}

std::string_view StateChain::read(const Block& block) {
  bytes_.resize(block.bytes);
  if (files_[block.file]->read_at(block.offset, bytes_) != block.bytes) {
    throw Error(Code::truncated_data, {.why = directory_ + "/" + manifest_.chain[block.file].name + " has been cut"});
  }
  return bytes_;
}

KeyGroup StateChain::read_group(std::size_t index, const std::vector<Block>& blocks) {
  KeyGroup group(manifest_.operators[index].schema);
  for (const Block& block : blocks) group.take(read(block));
  return group;
}

StateFileInfo merge_chain(FileSystem& files, const std::string& directory, const Manifest& manifest,
                          const std::string& name) {
  StateChain chain(files, directory, manifest);
  StateFileWriter out(files, directory, name, true, manifest.operators);
  for (std::uint32_t index = 0; index < manifest.operators.size(); ++index) {
    for (const auto& [number, blocks] : chain.groups(index)) {
      const KeyGroup group = chain.read_group(index, blocks);
      if (group.size() > 0) out.add(index, {StateBlock::What::entries, number, 0, group.bytes()});
    }
    for (const StateChain::Block& log : chain.logs(index)) {
      out.add(index, {StateBlock::What::log, log.group, log.batch, std::string(chain.read(log))});
    }
  }
  return out.finish();
}

}  // namespace sluice::detail
