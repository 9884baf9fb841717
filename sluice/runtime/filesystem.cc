#include "sluice/runtime/filesystem.h"

#include <algorithm>
#include <cstdio>

#include "sluice/runtime/errors.h"

namespace sluice {
namespace {

void write_synced(FileSystem& files, const std::string& path, std::string_view bytes, Readers readers) {
  const std::unique_ptr<File> file = readers == Readers::owner ? files.create_private(path) : files.create(path);
  file->append(bytes);
  file->sync();
}

// After a failed publish. The first failure is the one to report, and a temporary left behind does no harm.
void remove_temporary(FileSystem& files, const std::string& path) {
  try {
    files.remove(path);
  } catch (const Error&) {
    return;
  }
}

}  // namespace

void FileSystem::publish(const std::string& path, std::string_view bytes, Readers readers) {
  const std::string temporary = temporary_name(path);
  try {
    write_synced(*this, temporary, bytes, readers);
    rename(temporary, path);
  } catch (...) {
    remove_temporary(*this, temporary);
    throw;
  }
  sync_directory(parent_path(path));
}

bool FileSystem::publish_new(const std::string& path, std::string_view bytes, Readers readers) {
  const std::string temporary = temporary_name(path);
  bool renamed = false;
  try {
    write_synced(*this, temporary, bytes, readers);
    renamed = rename_new(temporary, path);
  } catch (...) {
    remove_temporary(*this, temporary);
    throw;
  }
  if (!renamed) {
    remove_temporary(*this, temporary);
    return false;
  }
  sync_directory(parent_path(path));
  return true;
}

std::string FileSystem::temporary_name(const std::string& path) {
  char unique[48];
  std::snprintf(unique, sizeof unique, ".%016llx.%llu.tmp", static_cast<unsigned long long>(tag_),
                static_cast<unsigned long long>(publish_count_.fetch_add(1, std::memory_order_relaxed)));
  return parent_path(path) + "/." + std::string(base_name(path)) + unique;
}

bool FileSystem::is_temporary(std::string_view name, std::string_view begins) {
  return name.starts_with('.') && name.substr(1).starts_with(begins) && name.ends_with(".tmp");
}

bool FileSystem::remove_all(const std::string& path) {
  const std::optional<FileInfo> info = stat(path);
  if (!info) return false;
  if (info->is_directory && !info->is_link) {
    // nullopt: someone else has removed it in the meantime.
    if (const auto entries = list(path)) {
      for (const FileInfo& entry : *entries) remove_all(entry.path);
    }
  }
  return remove(path);
}

std::string read_file(FileSystem& files, const std::string& path, std::uint64_t bytes_max) {
  const std::unique_ptr<File> file = files.open(path);
  if (!file) throw Error(Code::not_readable, {.why = path + ": no such file"});
  const auto check = [&](std::uint64_t size_bytes) {
    if (size_bytes <= bytes_max) return;
    throw Error(Code::over_limit, {.why = path + " has more than " + std::to_string(bytes_max) + " bytes"});
  };
  const std::uint64_t expected = file->info().size_bytes;
  check(expected);
  // One byte more than expected, so that the end is seen. A file may grow, and those of /proc say 0 and hold a page or
  // more.
  std::string text(static_cast<std::size_t>(std::max<std::uint64_t>(expected, 4095)) + 1, '\0');
  std::size_t filled = 0;
  while (true) {
    const std::size_t count = file->read_at(filled, std::span(text).subspan(filled));
    filled += count;
    check(filled);
    if (count == 0) break;
    if (filled == text.size()) text.resize(filled * 2);
  }
  text.resize(filled);
  return text;
}

std::string_view base_name(std::string_view path) { return path.substr(path.find_last_of('/') + 1); }

std::string parent_path(std::string_view path) {
  const auto without_slashes = [](std::string_view text) {
    while (text.size() > 1 && text.ends_with('/')) text.remove_suffix(1);
    return text;
  };
  path = without_slashes(path);
  const std::size_t slash = path.find_last_of('/');
  if (slash == std::string_view::npos) return ".";
  return std::string(without_slashes(path.substr(0, std::max<std::size_t>(slash, 1))));
}

}  // namespace sluice
