#include "sluice/stream/checkpoint.h"

#include <algorithm>
#include <cstdio>
#include <unordered_map>
#include <utility>

#include "sluice/core/codec.h"
#include "sluice/runtime/checksum.h"
#include "sluice/runtime/errors.h"
#include "sluice/runtime/kill_point.h"

namespace sluice::detail {
namespace {

constexpr std::uint32_t manifest_magic = 0x4d434c53;    // "SLCM"
constexpr std::uint32_t state_file_magic = 0x53434c53;  // "SLCS"
constexpr std::uint8_t format_version = 1;
constexpr std::uint64_t manifest_bytes_max = 256 << 20;
constexpr std::uint64_t block_bytes_max = 1 << 30;
constexpr std::size_t buffer_bytes = 256 << 10;

std::string in(const std::string& directory, const std::string& name) { return directory + "/" + name; }

[[noreturn]] void fail_damaged(const std::string& path, const std::string& why) {
  throw Error(Code::corrupt_data, {.why = path + ": " + why});
}

void check_version(const std::string& path, std::uint8_t version) {
  if (version <= format_version) return;
  throw Error(Code::other_version, {.why = path + " has version " + std::to_string(version) + ", this program knows " +
                                           std::to_string(format_version)});
}

// What the reader of a file fails with names the file.
template <class F>
auto naming(const std::string& path, const F& f) {
  try {
    return f();
  } catch (const Error& error) {
    if (error.code() != Code::corrupt_data && error.code() != Code::truncated_data) throw;
    throw Error(error.code(), {.why = path + ": " + error.details().why});
  }
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
  schema.key_bytes = static_cast<std::uint32_t>(from.varint());
  schema.value_bytes = static_cast<std::uint32_t>(from.varint());
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
  }
}

std::vector<CheckpointOperator> decode_operators(Decoder& from) {
  std::vector<CheckpointOperator> operators;
  for (std::size_t left = from.count(); left > 0; --left) {
    CheckpointOperator each;
    each.name = std::string(from.text());
    each.schema = decode_schema(from);
    each.partitions = from.varint();
    operators.push_back(std::move(each));
  }
  return operators;
}

void add_frame(std::string_view body, Encoder& out) {
  out.u32(static_cast<std::uint32_t>(body.size()));
  out.u32(crc32c(body));
  out.bytes(body);
}

}  // namespace

std::string manifest_name(Time time, std::uint64_t epoch) {
  // Batch times lie at least a millisecond apart.
  char name[64];
  std::snprintf(name, sizeof name, "checkpoint-%015lld-%06llu", to_milliseconds(time),
                static_cast<unsigned long long>(epoch));
  return name;
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
  Encoder all;
  all.u32(manifest_magic);
  all.u8(format_version);
  add_frame(body.view(), all);
  kill_point("checkpoint.before_manifest");
  files.publish(in(directory, manifest_name(manifest.time, manifest.epoch)), all.view());
  kill_point("checkpoint.after_manifest");
}

Manifest read_manifest(FileSystem& files, const std::string& path) {
  const std::string bytes = read_file(files, path, manifest_bytes_max);
  return naming(path, [&] {
    Decoder head(bytes);
    if (head.u32() != manifest_magic) fail_damaged(path, "is no checkpoint");
    check_version(path, head.u8());
    const std::uint32_t size = head.u32();
    const std::uint32_t sum = head.u32();
    const std::string_view body = head.bytes(size);
    head.expect_end();
    if (crc32c(body) != sum) fail_damaged(path, "its checksum is wrong");
    Decoder from(body);
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
      StateFileInfo file;
      file.name = std::string(from.text());
      file.bytes = from.varint();
      file.blocks = from.varint();
      file.base = from.u8() != 0;
      // A name from a file is no path.
      if (file.name.find('/') != std::string::npos) fail_damaged(path, "a state file lies elsewhere");
      manifest.chain.push_back(std::move(file));
    }
    from.expect_end();
    return manifest;
  });
}

std::vector<std::string> list_manifests(FileSystem& files, const std::string& directory) {
  std::vector<std::string> paths;
  const auto listed = files.list(directory);
  if (!listed.has_value()) return paths;
  for (const FileInfo& file : *listed) {
    const std::string_view name = std::string_view(file.path).substr(file.path.find_last_of('/') + 1);
    if (!file.is_directory && name.starts_with("checkpoint-")) paths.push_back(file.path);
  }
  std::sort(paths.begin(), paths.end(), std::greater<>());
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
  Encoder head;
  head.u32(state_file_magic);
  head.u8(format_version);
  add_frame(table.view(), head);
  buffer_ = head.take();
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
  Encoder body;
  body.u8(static_cast<std::uint8_t>(block.what));
  body.varint(operator_index);
  body.varint(block.group);
  body.u64(static_cast<std::uint64_t>(block.batch));
  body.bytes(block.bytes);
  Encoder framed;
  add_frame(body.view(), framed);
  buffer_ += framed.view();
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
  // A view of the next `size` bytes, valid until the next call.
  std::string_view next(std::size_t size) {
    if (buffer_.size() - at_ < size) fill(size);
    const std::string_view bytes(buffer_.data() + at_, size);
    at_ += size;
    return bytes;
  }
  bool at_end() {
    if (at_ == buffer_.size()) fill_some();
    return at_ == buffer_.size();
  }

 private:
  void fill(std::size_t size) {
    while (buffer_.size() - at_ < size) {
      if (!fill_some()) throw Error(Code::truncated_data, {.why = path_ + ": ends inside a block"});
    }
  }
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
  std::uint64_t offset_ = 0;
  std::string buffer_;
  std::size_t at_ = 0;
};

}  // namespace

namespace {

/// A block, and where its content lies in its file.
struct ScannedBlock {
  StateBlock::What what{};
  std::uint32_t operator_index = 0;
  std::uint32_t group = 0;
  std::int64_t batch = 0;
  std::uint64_t offset = 0;
  std::string_view bytes;  // until the next one is read
};

/// Checks all of the file.
void scan_state_file(FileSystem& files, const std::string& path, const StateFileInfo& info,
                     const std::function<void(const std::vector<CheckpointOperator>&, const ScannedBlock&)>& f) {
  naming(path, [&] {
    FrontToBack from(files, path);
    std::uint64_t bytes = 0;
    const auto next = [&](std::size_t size) {
      bytes += size;
      return from.next(size);
    };
    const auto next_frame = [&] {
      Decoder frame(next(8));
      const std::uint32_t size = frame.u32();
      const std::uint32_t sum = frame.u32();
      if (size > block_bytes_max) fail_damaged(path, "a block is too large");
      const std::string_view body = next(size);
      if (crc32c(body) != sum) {
        fail_damaged(path, "the checksum of what lies at byte " + std::to_string(bytes - size) + " is wrong");
      }
      return body;
    };
    Decoder head(next(5));
    if (head.u32() != state_file_magic) fail_damaged(path, "is no state file");
    check_version(path, head.u8());
    Decoder table(next_frame());
    const std::vector<CheckpointOperator> operators = decode_operators(table);
    table.expect_end();
    for (std::uint64_t n = 0; n < info.blocks; ++n) {
      Decoder body(next_frame());
      ScannedBlock block;
      block.what = static_cast<StateBlock::What>(body.u8());
      if (block.what != StateBlock::What::entries && block.what != StateBlock::What::log) {
        fail_damaged(path, "a block is of no known kind");
      }
      block.operator_index = static_cast<std::uint32_t>(body.varint());
      block.group = static_cast<std::uint32_t>(body.varint());
      block.batch = static_cast<std::int64_t>(body.u64());
      block.offset = bytes - body.remaining();
      block.bytes = body.bytes(body.remaining());
      if (block.operator_index >= operators.size()) fail_damaged(path, "a block is of no operator");
      f(operators, block);
    }
    if (!from.at_end() || bytes != info.bytes) fail_damaged(path, "is not the file that its checkpoint names");
  });
}

}  // namespace

void read_state_file(FileSystem& files, const std::string& directory, const StateFileInfo& info,
                     const std::function<void(const CheckpointOperator&, StateBlock&&)>& f) {
  scan_state_file(files, in(directory, info.name), info,
                  [&](const std::vector<CheckpointOperator>& operators, const ScannedBlock& block) {
                    f(operators[block.operator_index],
                      {block.what, block.group, block.batch, std::string(block.bytes)});
                  });
}

// ---- Merging

namespace {

/// The keys of one group in order, later puts in place of earlier ones: as KeyedState::load does it.
class MergedGroup {
 public:
  explicit MergedGroup(const StateSchema& schema) : schema_(schema) {}

  void take(std::string_view block) {
    Decoder from(block);
    for (std::uint64_t left = from.varint(); left > 0; --left) {
      const auto found = places_.find(std::string(part(from, schema_.key_bytes)));
      if (found == places_.end()) continue;
      entries_[found->second].gone = true;
      places_.erase(found);
    }
    for (std::uint64_t left = from.varint(); left > 0; --left) {
      std::string key(part(from, schema_.key_bytes));
      std::string value(part(from, schema_.value_bytes));
      const auto [place, is_new] = places_.try_emplace(key, entries_.size());
      if (is_new) {
        entries_.push_back({std::move(key), std::move(value), false});
      } else {
        entries_[place->second].value = std::move(value);
      }
    }
    from.expect_end();
  }
  std::string bytes() const {
    Encoder out;
    out.varint(0);
    out.varint(places_.size());
    for (const Entry& entry : entries_) {
      if (entry.gone) continue;
      put(entry.key, schema_.key_bytes, out);
      put(entry.value, schema_.value_bytes, out);
    }
    return out.take();
  }
  bool empty() const { return places_.empty(); }

 private:
  struct Entry {
    std::string key;
    std::string value;
    bool gone;
  };
  static std::string_view part(Decoder& from, std::uint32_t bytes) {
    return bytes > 0 ? from.bytes(bytes) : from.text();
  }
  static void put(const std::string& part, std::uint32_t bytes, Encoder& out) {
    bytes > 0 ? out.bytes(part) : out.text(part);
  }

  const StateSchema& schema_;
  std::vector<Entry> entries_;
  std::unordered_map<std::string, std::size_t> places_;
};

}  // namespace

StateFileInfo merge_chain(FileSystem& files, const std::string& directory, const Manifest& manifest,
                          const std::string& name) {
  struct Piece {
    std::size_t file;
    std::uint64_t offset;
    std::size_t bytes;
  };
  struct Log {
    std::int64_t batch;
    std::uint32_t group;
    Piece piece;
  };
  // Of each operator, by its index in the manifest.
  std::vector<std::map<std::uint32_t, std::vector<Piece>>> groups(manifest.operators.size());
  std::vector<std::vector<Log>> logs(manifest.operators.size());
  for (std::size_t file = 0; file < manifest.chain.size(); ++file) {
    const std::string path = in(directory, manifest.chain[file].name);
    scan_state_file(
        files, path, manifest.chain[file],
        [&](const std::vector<CheckpointOperator>& operators, const ScannedBlock& block) {
          const auto known = std::find_if(manifest.operators.begin(), manifest.operators.end(), [&](const auto& each) {
            return each.name == operators[block.operator_index].name;
          });
          if (known == manifest.operators.end() || known->schema != operators[block.operator_index].schema) {
            fail_damaged(path, "has an operator that its checkpoint does not name");
          }
          const auto index = static_cast<std::size_t>(known - manifest.operators.begin());
          const Piece piece{file, block.offset, block.bytes.size()};
          if (block.what == StateBlock::What::entries) {
            groups[index][block.group].push_back(piece);
          } else if (block.batch >
                     manifest.time.time_since_epoch().count() - known->schema.log_length - known->schema.slide) {
            logs[index].push_back({block.batch, block.group, piece});
          }
        });
  }
  std::vector<std::unique_ptr<File>> open;
  for (const StateFileInfo& file : manifest.chain) {
    open.push_back(files.open(in(directory, file.name)));
    if (open.back() == nullptr) throw Error(Code::not_readable, {.why = in(directory, file.name) + ": no such file"});
  }
  std::string bytes;
  const auto read = [&](const Piece& piece) {
    bytes.resize(piece.bytes);
    if (open[piece.file]->read_at(piece.offset, bytes) != piece.bytes) {
      throw Error(Code::truncated_data, {.why = manifest.chain[piece.file].name + " has been cut"});
    }
  };
  StateFileWriter out(files, directory, name, true, manifest.operators);
  for (std::uint32_t index = 0; index < manifest.operators.size(); ++index) {
    for (const auto& [number, pieces] : groups[index]) {
      MergedGroup group(manifest.operators[index].schema);
      for (const Piece& piece : pieces) {
        read(piece);
        group.take(bytes);
      }
      if (!group.empty()) out.add(index, {StateBlock::What::entries, number, 0, group.bytes()});
    }
    for (const Log& log : logs[index]) {
      read(log.piece);
      out.add(index, {StateBlock::What::log, log.group, log.batch, bytes});
    }
  }
  return out.finish();
}

}  // namespace sluice::detail
