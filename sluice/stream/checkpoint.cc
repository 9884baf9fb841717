#include "sluice/stream/checkpoint.h"

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <limits>
#include <utility>

#include "sluice/core/codec.h"
#include "sluice/core/hash.h"
#include "sluice/runtime/checksum.h"
#include "sluice/runtime/kill_point.h"
#include "sluice/stream/framed.h"

namespace sluice::detail {
namespace {

constexpr FramedKind manifest_kind{0x4d434c53, 1, "a checkpoint"};  // "SLCM"
// Version 2 is a manifest with snapshots; without any it is version 1, which earlier programs read, too.
constexpr FramedKind manifest_kind_2{manifest_kind.magic, 2, manifest_kind.name};
constexpr FramedKind state_file_kind{0x53434c53, 1, "a state file"};  // "SLCS"
constexpr std::uint64_t manifest_bytes_max = 256 << 20;
constexpr std::uint64_t block_bytes_max = 1 << 30;
// With what a block has before its bytes.
constexpr std::uint64_t block_frame_bytes_max = block_bytes_max + 64;
constexpr std::size_t block_head_bytes = 8;
constexpr std::size_t buffer_bytes = 256 << 10;
// Files of a snapshot that are read at each start: those that tell what the others are, and more.
constexpr std::uint64_t small_bytes_max = 1 << 20;

std::string in(const std::string& directory, const std::string& name) { return directory + "/" + name; }

// The file is named by `naming_file`.
[[noreturn]] void fail_damaged(std::string why) { throw Error(Code::corrupt_data, {.why = std::move(why)}); }

std::uint32_t small_number(Decoder& from) {
  const std::uint64_t number = from.varint();
  if (number > std::numeric_limits<std::uint32_t>::max()) from.fail_corrupt("a number is out of its range");
  return static_cast<std::uint32_t>(number);
}

void encode_schema(const StateSchema& schema, Encoder& out) {
  out.text(schema.kind);
  out.text(schema.key);
  out.text(schema.value);
  out.varint(schema.key_bytes);
  out.varint(schema.value_bytes);
  out.varint(static_cast<std::uint64_t>(schema.log_length));
  out.varint(static_cast<std::uint64_t>(schema.slide));
}

StateSchema decode_schema(Decoder& from) {
  StateSchema schema;
  schema.kind = std::string(from.text());
  schema.key = std::string(from.text());
  schema.value = std::string(from.text());
  schema.key_bytes = small_number(from);
  schema.value_bytes = small_number(from);
  schema.log_length = static_cast<std::int64_t>(from.varint());
  schema.slide = static_cast<std::int64_t>(from.varint());
  return schema;
}

void encode_operators(const std::vector<CheckpointOperator>& operators, Encoder& out) {
  out.varint(operators.size());
  for (const CheckpointOperator& each : operators) {
    out.text(each.name);
    encode_schema(each.schema, out);
    out.varint(each.partitions);
    out.u64(static_cast<std::uint64_t>(each.batch));
  }
}

std::vector<CheckpointOperator> decode_operators(Decoder& from) {
  std::vector<CheckpointOperator> operators;
  for (std::size_t left = from.count(); left > 0; --left) {
    CheckpointOperator each;
    each.name = std::string(from.text());
    each.schema = decode_schema(from);
    each.partitions = from.varint();
    each.batch = static_cast<std::int64_t>(from.u64());
    operators.push_back(std::move(each));
  }
  return operators;
}

void encode_snapshots(const std::vector<StateSnapshot>& snapshots, Encoder& out) {
  out.varint(snapshots.size());
  for (const StateSnapshot& snapshot : snapshots) {
    out.varint(snapshot.operator_index);
    out.text(snapshot.directory);
    out.varint(snapshot.keys);
    out.varint(snapshot.files.size());
    for (const SnapshotFile& file : snapshot.files) {
      out.text(file.name);
      out.varint(file.bytes);
      out.u32(file.checksum);
    }
  }
}

std::vector<StateSnapshot> decode_snapshots(Decoder& from, std::size_t operators) {
  std::vector<StateSnapshot> snapshots;
  // A name from a file is no path, and not that of something else.
  const auto name = [&from](std::string_view prefix) {
    std::string text(from.text());
    if (text.size() <= prefix.size() || !text.starts_with(prefix) || text.find('/') != std::string::npos) {
      from.fail_corrupt("a part of a snapshot does not have the name of one");
    }
    return text;
  };
  for (std::size_t left = from.count(); left > 0; --left) {
    StateSnapshot snapshot;
    snapshot.operator_index = small_number(from);
    if (snapshot.operator_index >= operators) from.fail_corrupt("a snapshot is of no operator");
    snapshot.directory = name(snapshot_prefix);
    snapshot.keys = from.varint();
    for (std::size_t files = from.count(); files > 0; --files) {
      SnapshotFile file;
      file.name = name("");
      file.bytes = from.varint();
      file.checksum = from.u32();
      snapshot.files.push_back(std::move(file));
    }
    snapshots.push_back(std::move(snapshot));
  }
  return snapshots;
}

struct ManifestId {
  std::int64_t milliseconds = 0;
  std::uint64_t epoch = 0;
  friend auto operator<=>(const ManifestId&, const ManifestId&) = default;
};

std::string name_of(ManifestId id) {
  char name[64];
  std::snprintf(name, sizeof name, "checkpoint-%015lld-%06llu", static_cast<long long>(id.milliseconds),
                static_cast<unsigned long long>(id.epoch));
  return name;
}

std::optional<ManifestId> parse_manifest_name(std::string_view name) {
  constexpr std::string_view prefix = "checkpoint-";
  const std::size_t dash = name.find_last_of('-');
  if (!name.starts_with(prefix) || dash < prefix.size()) return std::nullopt;
  ManifestId id;
  std::from_chars(name.data() + prefix.size(), name.data() + dash, id.milliseconds);
  std::from_chars(name.data() + dash + 1, name.data() + name.size(), id.epoch);
  if (name_of(id) != name) return std::nullopt;
  return id;
}

}  // namespace

bool is_damage(const Error& error) {
  switch (error.code()) {
    case Code::corrupt_data:
    case Code::truncated_data:
    case Code::over_limit:
    case Code::not_readable: return true;
    default: return false;
  }
}

// Batch times lie at least a millisecond apart.
std::string manifest_name(Time time, std::uint64_t epoch) { return name_of({to_milliseconds(time), epoch}); }

const StateSnapshot* snapshot_of(const Manifest& manifest, std::size_t operator_index) {
  for (const StateSnapshot& snapshot : manifest.snapshots) {
    if (snapshot.operator_index == operator_index) return &snapshot;
  }
  return nullptr;
}

std::string snapshot_name(Time time, std::uint64_t epoch, std::size_t operator_index) {
  char name[64];
  std::snprintf(name, sizeof name, "%015lld-%06llu-%04zu", to_milliseconds(time),
                static_cast<unsigned long long>(epoch), operator_index);
  return std::string(snapshot_prefix) + name;
}

void check_snapshot(FileSystem& files, const std::string& directory, const StateSnapshot& snapshot, bool all) {
  std::string buffer(buffer_bytes, '\0');
  for (const SnapshotFile& expected : snapshot.files) {
    const std::string path = in(in(directory, snapshot.directory), expected.name);
    naming_file(path, [&] {
      const auto info = files.stat(path);
      if (!info.has_value()) throw Error(Code::truncated_data, {.why = "no such file"});
      if (info->size_bytes != expected.bytes) {
        fail_damaged(std::to_string(info->size_bytes) + " bytes; the checkpoint has it with " +
                     std::to_string(expected.bytes));
      }
      if (!all && expected.bytes > small_bytes_max) return;
      const auto file = files.open(path);
      if (file == nullptr) throw Error(Code::truncated_data, {.why = "no such file"});
      std::uint32_t checksum = 0;
      std::uint64_t at = 0;
      while (const std::size_t got = file->read_at(at, buffer)) {
        checksum = crc32c({buffer.data(), got}, checksum);
        at += got;
      }
      if (at != expected.bytes || checksum != expected.checksum) fail_damaged("its checksum is wrong");
    });
  }
}

void write_manifest(FileSystem& files, const std::string& directory, const Manifest& manifest) {
  Encoder body;
  encode(manifest.time, body);
  body.u64(manifest.epoch);
  body.u64(manifest.build);
  body.text(manifest.app);
  encode(manifest.zero, body);
  encode(manifest.interval, body);
  body.u64(manifest.hash_seed);
  encode_operators(manifest.operators, body);
  body.varint(manifest.inputs.size());
  for (const auto& [name, saved] : manifest.inputs) {
    body.text(name);
    body.text(saved);
  }
  body.varint(manifest.chain.size());
  for (const StateFileInfo& file : manifest.chain) {
    body.text(file.name);
    body.varint(file.bytes);
    body.varint(file.blocks);
    body.u8(file.base ? 1 : 0);
  }
  if (!manifest.snapshots.empty()) encode_snapshots(manifest.snapshots, body);
  const std::string all = put_in_frame(manifest.snapshots.empty() ? manifest_kind : manifest_kind_2, body.view());
  if (all.size() > manifest_bytes_max) {
    throw Error(Code::over_limit, {.why = "the manifest of a checkpoint in " + directory + " has " +
                                          std::to_string(all.size()) + " bytes, of which inputs save most; at most " +
                                          std::to_string(manifest_bytes_max) + " can be read"});
  }
  kill_point("checkpoint.before_manifest");
  files.publish(in(directory, manifest_name(manifest.time, manifest.epoch)), all);
  kill_point("checkpoint.after_manifest");
}

namespace {

StateFileInfo decode_chain_part(Decoder& from, bool is_first) {
  StateFileInfo file;
  file.name = std::string(from.text());
  file.bytes = from.varint();
  file.blocks = from.varint();
  file.base = decode<bool>(from);
  // A name from a file is no path, and not that of something else.
  if (!file.name.starts_with("state-") || file.name.find('/') != std::string::npos) {
    from.fail_corrupt("a file of a chain does not have the name of one");
  }
  if (file.base != is_first) from.fail_corrupt("a chain is not a base and what follows on it");
  return file;
}

Manifest decode_manifest(Decoder& from, const FramedKind& kind) {
  Manifest manifest;
  manifest.time = decode<Time>(from);
  manifest.epoch = from.u64();
  manifest.build = from.u64();
  manifest.app = std::string(from.text());
  manifest.zero = decode<Time>(from);
  manifest.interval = decode<Duration>(from);
  manifest.hash_seed = from.u64();
  manifest.operators = decode_operators(from);
  for (std::size_t left = from.count(); left > 0; --left) {
    std::string name(from.text());
    manifest.inputs[std::move(name)] = std::string(from.text());
  }
  for (std::size_t left = from.count(); left > 0; --left) {
    manifest.chain.push_back(decode_chain_part(from, manifest.chain.empty()));
  }
  if (kind.version > 1) manifest.snapshots = decode_snapshots(from, manifest.operators.size());
  from.expect_end();
  return manifest;
}

}  // namespace

Manifest read_manifest(FileSystem& files, const std::string& path) {
  const std::string bytes = read_file(files, path, manifest_bytes_max);
  return naming_file(path, [&] {
    const bool is_first = bytes.size() > 4 && bytes[4] == manifest_kind.version;
    const FramedKind& kind = is_first ? manifest_kind : manifest_kind_2;
    const std::string_view content = take_out_of_frame(kind, bytes);
    Decoder from(bytes);  // so that errors tell places in the file
    from.bytes(bytes.size() - content.size());
    Manifest manifest = decode_manifest(from, kind);
    // One that was renamed or copied would take the place of another.
    if (manifest_name(manifest.time, manifest.epoch) != base_name(path)) {
      fail_damaged("by its content this is " + manifest_name(manifest.time, manifest.epoch));
    }
    return manifest;
  });
}

std::vector<std::string> list_manifests(FileSystem& files, const std::string& directory) {
  std::vector<std::pair<ManifestId, std::string>> found;
  const auto listed = files.list(directory);
  for (const FileInfo& file : listed.value_or(std::vector<FileInfo>{})) {
    const std::optional<ManifestId> id = parse_manifest_name(base_name(file.path));
    if (id && !file.is_directory) found.emplace_back(*id, file.path);
  }
  std::sort(found.begin(), found.end(), std::greater<>());
  std::vector<std::string> paths;
  for (auto& [id, path] : found) paths.push_back(std::move(path));
  return paths;
}

// ---- State files

StateFileWriter::StateFileWriter(FileSystem& files, std::string directory, std::string name, bool base,
                                 const std::vector<CheckpointOperator>& operators)
    : files_(files), directory_(std::move(directory)), info_{std::move(name), 0, 0, base} {
  temporary_ = in(directory_, "." + info_.name + ".tmp");
  file_ = files_.create(temporary_);
  Encoder table;
  encode_operators(operators, table);
  buffer_ = put_in_frame(state_file_kind, table.view());
}

StateFileWriter::~StateFileWriter() {
  if (finished_) return;
  try {
    file_ = nullptr;
    files_.remove(temporary_);
  } catch (const Error& error) {
    // The next start removes it; the directory's owner alone reads names without a dot.
    std::fprintf(stderr, "sluice: an unfinished state file stays behind: %s\n", error.what());
  }
}

void StateFileWriter::add(std::uint32_t operator_index, const StateBlock& block) {
  if (block.bytes.size() > block_bytes_max) {
    throw Error(Code::over_limit, {.why = "a key group, or a partition of what a window holds, has " +
                                          std::to_string(block.bytes.size()) + " bytes; at most " +
                                          std::to_string(block_bytes_max) + " can be read back. More partitions help"});
  }
  Encoder body;
  body.u8(static_cast<std::uint8_t>(block.what));
  body.varint(operator_index);
  body.varint(block.group);
  body.u64(static_cast<std::uint64_t>(block.batch));
  body.bytes(block.bytes);
  Encoder framed;
  framed.u32(static_cast<std::uint32_t>(body.size()));
  framed.u32(crc32c(body.view()));
  buffer_ += framed.view();
  buffer_ += body.view();
  ++info_.blocks;
  if (buffer_.size() >= buffer_bytes) flush();
}

void StateFileWriter::flush() {
  file_->append(buffer_);
  info_.bytes += buffer_.size();
  buffer_.clear();
}

StateFileInfo StateFileWriter::finish() {
  flush();
  kill_point("checkpoint.before_sync");
  file_->sync();
  file_ = nullptr;
  kill_point("checkpoint.before_rename");
  files_.rename(temporary_, in(directory_, info_.name));
  finished_ = true;
  files_.sync_directory(directory_);
  return info_;
}

namespace {

/// Reads a file front to back through a buffer.
class FrontToBack {
 public:
  FrontToBack(FileSystem& files, std::string path) : path_(std::move(path)), file_(files.open(path_)) {
    if (file_ == nullptr) throw Error(Code::not_readable, {.why = path_ + ": no such file"});
  }
  /// A view of the next `size` bytes, valid until the next call.
  std::string_view next(std::size_t size) {
    while (buffer_.size() - at_ < size) {
      if (!fill_some()) {
        throw Error(Code::truncated_data, {.why = "the file ends at byte " + std::to_string(offset_) +
                                                  ", inside what begins at byte " + std::to_string(position_)});
      }
    }
    const std::string_view bytes(buffer_.data() + at_, size);
    at_ += size;
    position_ += size;
    return bytes;
  }
  bool at_end() { return at_ == buffer_.size() && !fill_some(); }
  /// Of what is read next.
  std::uint64_t position() const { return position_; }

 private:
  // Memory grows with what comes, not with what a damaged length announces.
  bool fill_some() {
    buffer_.erase(0, at_);
    at_ = 0;
    const std::size_t had = buffer_.size();
    buffer_.resize(had + std::max(buffer_bytes, had));
    const std::size_t got = file_->read_at(offset_, {buffer_.data() + had, buffer_.size() - had});
    buffer_.resize(had + got);
    offset_ += got;
    return got > 0;
  }

  const std::string path_;
  const std::unique_ptr<File> file_;
  std::uint64_t offset_ = 0;  // of the end of the buffer
  std::uint64_t position_ = 0;
  std::string buffer_;
  std::size_t at_ = 0;
};

/// Reads the frames of a state file.
class StateFileReader {
 public:
  StateFileReader(FileSystem& files, const std::string& path) : from_(files, path) {
    const FrameHead head(state_file_kind, from_.next(frame_head_bytes));
    if (head.size() > block_frame_bytes_max) fail_damaged("its operators are too many");
    const std::string_view content = from_.next(head.size());
    head.check(content);
    Decoder table(content);
    operators_ = decode_operators(table);
    table.expect_end();
  }
  const std::vector<CheckpointOperator>& operators() const { return operators_; }
  bool at_end() { return from_.at_end(); }
  std::uint64_t position() const { return from_.position(); }

  /// Its bytes are valid until the next call.
  StateBlockAt next() {
    const std::uint64_t begin = from_.position();
    Decoder body(next_frame());
    StateBlockAt block;
    block.what = static_cast<StateBlock::What>(body.u8());
    block.operator_index = small_number(body);
    block.group = small_number(body);
    block.batch = static_cast<std::int64_t>(body.u64());
    block.bytes = body.bytes(body.remaining());
    block.offset = from_.position() - block.bytes.size();
    const auto fail = [&](const char* why) {
      fail_damaged("the block at byte " + std::to_string(begin) + " is " + why);
    };
    if (block.operator_index >= operators_.size()) fail("of no operator");
    const StateSchema& schema = operators_[block.operator_index].schema;
    switch (block.what) {
      case StateBlock::What::entries:
        if (schema.kind == kept_kind || block.group >= key_groups) fail("of no key group");
        break;
      case StateBlock::What::log:
        if (schema.log_length <= 0) fail("of an operator that has none of its kind");
        break;
      default: fail("of no known kind");
    }
    return block;
  }

 private:
  std::string_view next_frame() {
    Decoder head(from_.next(block_head_bytes));
    const std::uint32_t size = head.u32();
    const std::uint32_t sum = head.u32();
    const std::string at = std::to_string(from_.position());
    if (size > block_frame_bytes_max) fail_damaged("what begins at byte " + at + " is too large");
    const std::string_view body = from_.next(size);
    if (crc32c(body) != sum) fail_damaged("the checksum of what begins at byte " + at + " is wrong");
    return body;
  }

  FrontToBack from_;
  std::vector<CheckpointOperator> operators_;
};

}  // namespace

void scan_state_file(FileSystem& files, const std::string& directory, const StateFileInfo& info,
                     const std::function<void(const std::vector<CheckpointOperator>&, const StateBlockAt&)>& f) {
  const std::string path = in(directory, info.name);
  naming_file(path, [&] {
    StateFileReader from(files, path);
    std::uint64_t blocks = 0;
    for (; !from.at_end(); ++blocks) {
      if (blocks == info.blocks) break;
      const StateBlockAt block = from.next();
      f(from.operators(), block);
    }
    if (!from.at_end() || blocks != info.blocks || from.position() != info.bytes) {
      fail_damaged("this is not the file that its checkpoint names: that one has " + std::to_string(info.blocks) +
                   " blocks and " + std::to_string(info.bytes) + " bytes");
    }
  });
}

void read_state_file(FileSystem& files, const std::string& directory, const StateFileInfo& info,
                     const std::function<void(const CheckpointOperator&, StateBlock&&)>& f) {
  scan_state_file(
      files, directory, info, [&](const std::vector<CheckpointOperator>& operators, const StateBlockAt& block) {
        f(operators[block.operator_index], {block.what, block.group, block.batch, std::string(block.bytes)});
      });
}

}  // namespace sluice::detail
