#include "sluice/api/rolling_directory.h"

#include <algorithm>
#include <cstdio>
#include <set>
#include <utility>

#include "sluice/core/codec.h"
#include "sluice/runtime/checksum.h"
#include "sluice/runtime/kill_point.h"
#include "sluice/stream/framed.h"

namespace sluice::detail {
namespace {

constexpr FramedKind manifest_kind{0x524c4353, 1, "a manifest of rolling files"};  // "SCLR"
constexpr std::string_view manifest_prefix = "manifest-";
constexpr std::uint8_t said_version = 1;
constexpr std::size_t copy_bytes = 1 << 20;
constexpr std::uint64_t manifest_bytes_max = std::uint64_t{256} << 20;

std::string manifest_directory(const std::string& directory) { return directory + "/.sluice"; }

std::string padded(std::uint64_t number) {
  char text[32];
  std::snprintf(text, sizeof text, "%012llu", static_cast<unsigned long long>(number));
  return text;
}

std::string manifest_path(const std::string& directory, std::uint64_t number) {
  return manifest_directory(directory) + "/" + std::string(manifest_prefix) + padded(number);
}

/// Numbers of the manifests there are, in order.
std::vector<std::uint64_t> manifest_numbers(FileSystem& files, const std::string& directory) {
  std::vector<std::uint64_t> numbers;
  for (const FileInfo& file : files.list(manifest_directory(directory)).value_or(std::vector<FileInfo>{})) {
    std::string_view name = base_name(file.path);
    if (!name.starts_with(manifest_prefix)) continue;
    name.remove_prefix(manifest_prefix.size());
    if (name.empty() || name.find_first_not_of("0123456789") != name.npos) continue;
    numbers.push_back(std::stoull(std::string(name)));
  }
  std::sort(numbers.begin(), numbers.end());
  return numbers;
}

/// An open file as its path says.
struct Hidden {
  std::string name;
  std::uint64_t epoch = 0;
};

/// Nothing for what is none of an open file.
std::optional<Hidden> parse_hidden(std::string_view path) {
  constexpr std::string_view end = ".open";
  constexpr std::string_view digits = "0123456789";
  std::string_view name = base_name(path);
  if (!name.starts_with('.') || !name.ends_with(end) || name.size() <= 1 + end.size()) return std::nullopt;
  name = name.substr(1, name.size() - 1 - end.size());
  const std::size_t dash = name.find_first_not_of(digits);
  if (dash == name.npos || dash < 12 || name[dash] != '-') return std::nullopt;
  const std::string_view rest = name.substr(dash + 1);
  const std::size_t count = std::min(rest.find_first_not_of(digits), rest.size());
  if (count == 0 || count > 18) return std::nullopt;
  return Hidden{std::string(name), std::stoull(std::string(rest.substr(0, count)))};
}

void encode_open(const RollingOpen& open, Encoder& out) {
  out.text(open.name);
  out.varint(open.number);
  out.varint(open.bytes);
  out.u32(open.checksum);
  out.u64(static_cast<std::uint64_t>(open.opened.time_since_epoch().count()));
}

RollingOpen decode_open(Decoder& in) {
  RollingOpen open;
  open.name = std::string(in.text());
  open.number = in.varint();
  open.bytes = in.varint();
  open.checksum = in.u32();
  open.opened = Time(Duration(static_cast<std::int64_t>(in.u64())));
  return open;
}

std::string encode_said(const RollingOpen& open) {
  Encoder out;
  out.u8(said_version);
  encode_open(open, out);
  return out.take();
}

RollingOpen decode_said(std::string_view said) {
  Decoder in(said);
  if (const std::uint8_t version = in.u8(); version != said_version) {
    throw Error(Code::other_version,
                {.why = "the journal has a note of rolling files of version " + std::to_string(version) +
                        "; this program knows version " + std::to_string(said_version)});
  }
  RollingOpen open = decode_open(in);
  in.expect_end();
  return open;
}

[[noreturn]] void fail_noted(const std::string& path, const std::string& why) {
  throw Error(Code::corrupt_data, {.why = path + ": " + why +
                                          "; the directory and the checkpoint directory do not belong together, or "
                                          "one of them was restored from a copy"});
}

[[noreturn]] void throw_replaced(const std::string& path, std::uint64_t epoch) {
  throw Error(Code::fenced, {.why = path + " belongs to the run of epoch " + std::to_string(epoch) +
                                    ". If the checkpoint directory was removed on purpose, write to a new directory"});
}

}  // namespace

std::string encode_rolling_manifest(const RollingManifest& manifest) {
  Encoder out;
  out.text(manifest.kind);
  out.text(manifest.app);
  out.text(manifest.output);
  out.u64(manifest.epoch);
  out.varint(manifest.last_number);
  out.text(manifest.taken_name);
  encode_open(manifest.taken, out);
  out.varint(manifest.files.size());
  for (const RollingEntry& file : manifest.files) {
    out.text(file.name);
    out.varint(file.bytes);
    out.u32(file.checksum);
  }
  return put_in_frame(manifest_kind, out.view());
}

RollingManifest decode_rolling_manifest(std::uint64_t number, std::string_view bytes) {
  Decoder in(take_out_of_frame(manifest_kind, bytes));
  RollingManifest manifest;
  manifest.number = number;
  manifest.kind = std::string(in.text());
  manifest.app = std::string(in.text());
  manifest.output = std::string(in.text());
  manifest.epoch = in.u64();
  manifest.last_number = in.varint();
  manifest.taken_name = std::string(in.text());
  manifest.taken = decode_open(in);
  for (std::size_t left = in.count(6); left > 0; --left) {
    RollingEntry file;
    file.name = std::string(in.text());
    file.bytes = in.varint();
    file.checksum = in.u32();
    manifest.files.push_back(std::move(file));
  }
  in.expect_end();
  return manifest;
}

RollingManifest read_rolling_manifest(FileSystem& files, const std::string& directory) {
  for (;;) {
    const std::vector<std::uint64_t> numbers = manifest_numbers(files, directory);
    if (numbers.empty()) return {};
    const std::string path = manifest_path(directory, numbers.back());
    try {
      const std::string bytes = read_file(files, path, manifest_bytes_max);
      return naming_file(path, [&] { return decode_rolling_manifest(numbers.back(), bytes); });
    } catch (const Error& error) {
      // Two newer ones have come since it was listed, and it has been removed.
      if (error.code() != Code::not_readable || files.stat(path).has_value()) throw;
    }
  }
}

std::string rolling_file_path(FileSystem& files, const std::string& directory, const RollingEntry& entry) {
  const std::string hidden = directory + "/." + entry.name + ".open";
  const std::string path = directory + "/" + entry.name;
  return !files.stat(path).has_value() && files.stat(hidden).has_value() ? hidden : path;
}

// ---- Start

std::string RollingDirectory::hidden_path(const std::string& name) const {
  return options_.path + "/." + name + ".open";
}

// The epoch keeps the names of two runs apart that both believe they are the only one.
std::string RollingDirectory::name_of(std::uint64_t number, std::uint64_t epoch) const {
  return padded(number) + "-" + std::to_string(epoch) + options_.suffix;
}

void RollingDirectory::check_owner(const RollingManifest& manifest, const SinkStart& start) const {
  if (manifest.number == 0) return;
  if (manifest.app != start.app || manifest.output != start.output) {
    throw Error(Code::bad_argument,
                {.why = options_.path + " has files of output \"" + manifest.output + "\" of application \"" +
                        manifest.app + "\"; give each output a directory of its own"});
  }
  if (manifest.kind != options_.kind) {
    throw Error(Code::bad_argument, {.why = options_.path + " has files of " + manifest.kind +
                                            ", and this output has " + options_.kind + "; write to a new directory"});
  }
  if (start.epoch != 0 && manifest.epoch > start.epoch) throw_replaced(options_.path, manifest.epoch);
}

std::optional<RollingOpen> RollingDirectory::find_noted(const RollingOpen& noted) const {
  RollingOpen now = noted;
  if (noted.name == manifest_.taken_name) now.name = manifest_.taken.name;
  for (const RollingEntry& file : manifest_.files) {
    if (file.name != now.name) continue;
    if (file.bytes != noted.bytes || file.checksum != noted.checksum) {
      fail_noted(options_.path + "/" + file.name, "the manifest has " + std::to_string(file.bytes) +
                                                      " bytes of it, the journal " + std::to_string(noted.bytes));
    }
    return std::nullopt;
  }
  // It was finished, and has been removed by somebody since, so the manifest has forgotten it.
  if (now.number <= manifest_.last_number) return std::nullopt;
  return now;
}

void RollingDirectory::copy_noted(const RollingOpen& from, const std::string& to_name) {
  const std::string path = hidden_path(from.name);
  const std::unique_ptr<File> old = files().open(path);
  if (old == nullptr) fail_noted(path, "no such file");
  const std::unique_ptr<File> copy = files().create(hidden_path(to_name));
  std::uint32_t checksum = 0;
  std::string bytes(std::min<std::uint64_t>(copy_bytes, from.bytes), '\0');
  for (std::uint64_t at = 0; at < from.bytes;) {
    const std::size_t wanted = static_cast<std::size_t>(std::min<std::uint64_t>(bytes.size(), from.bytes - at));
    const std::size_t count = old->read_at(at, std::span(bytes).first(wanted));
    if (count == 0) fail_noted(path, "it ends after " + std::to_string(at) + " bytes");
    const std::string_view some(bytes.data(), count);
    checksum = crc32c(some, checksum);
    copy->append(some);
    at += count;
  }
  if (checksum != from.checksum) fail_noted(path, "its checksum is wrong");
  copy->sync();
  files().sync_directory(options_.path);
}

// Who removes files is done with them. A manifest that named them for ever would grow for ever.
void RollingDirectory::leave_out_removed(RollingManifest& manifest) {
  std::set<std::string, std::less<>> listed;
  for (const FileInfo& file : files().list(options_.path).value_or(std::vector<FileInfo>{})) {
    listed.emplace(base_name(file.path));
  }
  const std::size_t gone = std::erase_if(manifest.files, [&](const RollingEntry& file) {
    // A file that gets its name while the directory is listed may be missing from the list.
    return !listed.contains(file.name) && !files().stat(hidden_path(file.name)).has_value() &&
           !files().stat(options_.path + "/" + file.name).has_value();
  });
  if (gone == 0) return;
  std::fprintf(stderr, "sluice: %zu files of %s have been removed; its manifest forgets them\n", gone,
               options_.path.c_str());
}

// False when another run has published meanwhile.
bool RollingDirectory::take_over(const SinkStart& start) {
  // Who published the manifest that was found may have been killed before it was durable.
  files().sync_directory(manifest_directory(options_.path));
  RollingManifest next = manifest_;
  next.kind = options_.kind;
  next.app = start.app;
  next.output = start.output;
  // Without a checkpoint directory the newest run is the one that counts.
  next.epoch = start.epoch != 0 ? start.epoch : manifest_.epoch + 1;
  open_.reset();
  last_number_ = manifest_.last_number;
  if (!start.said.empty()) {
    const RollingOpen noted = decode_said(start.said);
    last_number_ = std::max(last_number_, noted.number);
    if (noted.name != manifest_.taken_name) next.taken_name.clear();
    if (const std::optional<RollingOpen> from = find_noted(noted)) {
      open_ = from;
      open_->name = name_of(from->number, next.epoch);
      // It is its own already when its claim took effect and failed all the same.
      if (from->name != open_->name) copy_noted(*from, open_->name);
      kill_point("sink.mid_takeover");
      next.taken_name = noted.name;
      next.taken = *open_;
    }
  }
  if (next.taken_name.empty()) next.taken = {};
  leave_out_removed(next);
  return publish_manifest(std::move(next)) && !is_replaced();
}

void RollingDirectory::start(const SinkStart& start) {
  runtime_ = &start.runtime;
  open_.reset();
  file_.reset();
  without_name_.clear();
  files().make_directories(manifest_directory(options_.path));
  for (;;) {
    manifest_ = read_rolling_manifest(files(), options_.path);
    check_owner(manifest_, start);
    try {
      if (take_over(start)) break;
    } catch (const Error&) {
      if (!is_replaced()) throw;
    }
    // Another run has published meanwhile: an older one, or one that replaces this one.
  }
  kill_point("sink.after_takeover");
  remove_strays();
}

// Hidden files that are finished get their names; others of this run and of older ones are of no use, but for the one
// that this run goes on with. Newer ones are none of its business: it may have been replaced already.
void RollingDirectory::remove_strays() {
  // A manifest of the next number that is being written is not of an older run.
  const std::string last = padded(manifest_.number);
  for (const FileInfo& file : files().list(manifest_directory(options_.path)).value_or(std::vector<FileInfo>{})) {
    const std::string_view name = base_name(file.path);
    if (!FileSystem::is_temporary(name, manifest_prefix)) continue;
    if (name.substr(1 + manifest_prefix.size(), last.size()) <= last) files().remove(file.path);
  }
  std::set<std::string, std::less<>> finished;
  for (const RollingEntry& file : manifest_.files) finished.insert(file.name);
  for (const FileInfo& file : files().list(options_.path).value_or(std::vector<FileInfo>{})) {
    const std::optional<Hidden> hidden = parse_hidden(file.path);
    if (!hidden.has_value() || (open_.has_value() && open_->name == hidden->name)) continue;
    if (finished.contains(hidden->name)) {
      without_name_.push_back(hidden->name);
    } else if (hidden->epoch <= manifest_.epoch) {
      files().remove(file.path);
    }
  }
  give_names();
}

// ---- Manifests

bool RollingDirectory::is_replaced() {
  const std::vector<std::uint64_t> numbers = manifest_numbers(files(), options_.path);
  return (numbers.empty() ? 0 : numbers.back()) != manifest_.number;
}

void RollingDirectory::fail_replaced() {
  throw_replaced(options_.path, read_rolling_manifest(files(), options_.path).epoch);
}

template <class F>
void RollingDirectory::unless_replaced(const F& f) {
  if (is_replaced()) fail_replaced();
  try {
    f();
  } catch (const Error& error) {
    if (error.code() != Code::fenced && is_replaced()) fail_replaced();
    throw;
  }
}

// False when another run has taken the number.
bool RollingDirectory::publish_manifest(RollingManifest next) {
  // Before, not after: what has been published must not look like a failure.
  remove_old_manifests();
  next.number = manifest_.number + 1;
  const std::string path = manifest_path(options_.path, next.number);
  const std::string bytes = encode_rolling_manifest(next);
  const auto is_its_own = [&] {
    return files().stat(path).has_value() && read_file(files(), path, manifest_bytes_max) == bytes;
  };
  try {
    if (!files().publish_new(path, bytes)) return false;
  } catch (const Error&) {
    // It may have taken effect all the same, where a name is taken in two steps.
    if (!is_its_own()) throw;
    files().sync_directory(manifest_directory(options_.path));
  }
  manifest_ = std::move(next);
  return true;
}

// The present one stays when it has a successor: for who has listed it and is about to read it.
void RollingDirectory::remove_old_manifests() {
  for (const std::uint64_t number : manifest_numbers(files(), options_.path)) {
    if (number < manifest_.number) files().remove(manifest_path(options_.path, number));
  }
}

// ---- Batches

bool RollingDirectory::is_due() const {
  return open_.has_value() &&
         (open_->bytes >= options_.bytes || runtime_->clock().now() - open_->opened >= options_.age);
}

void RollingDirectory::finish_open() {
  kill_point("sink.before_publish");
  if (file_ == nullptr) file_ = files().open_append(hidden_path(open_->name));
  // What a batch that failed has left behind (R2).
  const std::uint64_t size_bytes = file_->info().size_bytes;
  if (size_bytes < open_->bytes) fail_noted(hidden_path(open_->name), "it has lost bytes that were synced");
  if (size_bytes > open_->bytes) {
    file_->truncate(open_->bytes);
    file_->sync();
  }
  RollingManifest next = manifest_;
  next.last_number = std::max(next.last_number, open_->number);
  next.files.push_back({open_->name, open_->bytes, open_->checksum});
  if (!publish_manifest(std::move(next))) fail_replaced();
  kill_point("sink.after_manifest");
  without_name_.push_back(open_->name);
  open_.reset();
  file_.reset();
  // The number may have been free again: who has replaced this run is further, and has removed the file.
  if (is_replaced()) fail_replaced();
  give_names();
  kill_point("sink.after_publish");
}

// Tried again at the next batch when it fails.
void RollingDirectory::give_names() {
  if (without_name_.empty()) return;
  for (const std::string& name : without_name_) {
    if (files().stat(hidden_path(name)).has_value()) files().rename(hidden_path(name), options_.path + "/" + name);
  }
  files().sync_directory(options_.path);
  without_name_.clear();
}

void RollingDirectory::append(const std::vector<std::string>& parts) {
  RollingOpen open;
  const bool is_new = !open_.has_value();
  if (is_new) {
    open.number = last_number_ + 1;
    open.name = name_of(open.number, manifest_.epoch);
    open.opened = runtime_->clock().now();
  } else {
    open = *open_;
  }
  const std::string path = hidden_path(open.name);
  try {
    if (is_new) {
      file_ = files().create(path);
    } else if (file_ == nullptr) {
      file_ = files().open_append(path);
    }
    const std::uint64_t size_bytes = file_->info().size_bytes;
    if (size_bytes < open.bytes) fail_noted(path, "it has lost bytes that were synced");
    if (size_bytes > open.bytes) file_->truncate(open.bytes);
    kill_point("sink.before_append");
    for (const std::string& part : parts) {
      if (part.empty()) continue;
      file_->append(part);
      open.bytes += part.size();
      open.checksum = crc32c(part, open.checksum);
      kill_point("sink.mid_append");
    }
    file_->sync();
    if (is_new) files().sync_directory(options_.path);
  } catch (...) {
    file_.reset();
    throw;
  }
  last_number_ = open.number;
  open_ = std::move(open);
}

std::string RollingDirectory::commit(const std::vector<std::string>& parts) {
  const bool is_empty = std::all_of(parts.begin(), parts.end(), [](const std::string& part) { return part.empty(); });
  unless_replaced([&] {
    give_names();
    if (is_due()) finish_open();
    if (!is_empty) append(parts);
  });
  return open_.has_value() ? encode_said(*open_) : std::string();
}

void RollingDirectory::close() {
  if (runtime_ == nullptr) return;
  unless_replaced([&] {
    give_names();
    if (open_.has_value()) finish_open();
  });
}

}  // namespace sluice::detail
